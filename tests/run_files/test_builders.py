"""The arguments of a network's builder in the config of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import yaml
from jsonargparse import ArgumentParser
from repository import ROOT
from torch import nn

from lightning_subnets import density
from lightning_subnets.commands.cli import main
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.run_files.builders import leave_defaults_to_builder
from lightning_subnets.run_files.saved_run import SavedRun


class Network(nn.Sequential):
    def __init__(self, width: int = 3, norm_layer: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__(nn.Conv2d(1, width, 3), norm_layer(width), nn.Flatten(), nn.Linear(36 * width, 10))


def test_a_class_that_is_a_default_is_left_to_the_network() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network", fail_untyped=False)
    for arguments in ({}, {"width": 4}):
        network = parser.parse_object(
            {"network": {"class_path": f"{__name__}.Network", "init_args": arguments}}
        ).network
        leave_defaults_to_builder(network)
        assert network.init_args.as_dict() == {"width": 3, **arguments}


@pytest.mark.thorough
def test_a_run_of_a_network_with_a_class_as_default_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 10, "embed_dim": 8, "depth": 1}
    options = [f"--model.network.{key}={value}" for key, value in (arguments | {"num_heads": 1}).items()]
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.accelerator=cpu"]
    config = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    config["model"]["network"] = "timm.models.Eva"
    Path("run.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "-c", "run.yaml", *options, *short])
    network = SavedRun("runs/run/version_0/checkpoints/last.ckpt").module().network
    assert isinstance(network, timm.models.Eva)
    assert density(network) == pytest.approx(0.5, abs=0.01)


@pytest.mark.thorough
def test_the_file_of_the_shipped_transformer_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.accelerator=cpu"]
    main(["fit", "-c", str(ROOT / "configs" / "digits" / "vit_signed.yaml"), *short])
    subnets(["export", "runs/vit_signed/version_0/checkpoints/last.ckpt", "vit.subnet"])
    assert Path("vit.subnet").stat().st_size < 40_000
