"""A checkpoint of an averaged run holds the average where it is read as the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import QUICKSTART
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from small_runs import quiet_trainer
from test_averaging import AVERAGES, Steps, fit, with_norms

from lightning_subnets import UserError, masked_weights
from lightning_subnets.commands.cli import main
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking.digest import weights_digest
from lightning_subnets.run_files.saved_run import SavedRun
from lightning_subnets.subnet_file import load_subnet
from lightning_subnets.subnet_file.container import Container
from lightning_subnets.training.checkpoint import read


def test_a_run_with_an_average_cannot_be_resumed_without_one(tmp_path: Path) -> None:
    fit(with_norms("EdgePopup"), tmp_path, EMAWeightAveraging(decay=0.9), epochs=1)
    with (
        pytest.warns(UserWarning, match="Be aware that when using `ckpt_path`"),
        pytest.raises(UserError, match=r"this run has no callback that averages: add the one in the config\.yaml"),
    ):
        fit(with_norms("EdgePopup"), tmp_path, resume=True)


def test_summary_checkpoint_and_exported_file_of_an_averaged_run_agree(tmp_path: Path) -> None:
    average = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"]
    options = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"]
    command = ["fit", "-c", str(QUICKSTART), *average, *options, "--model.weights=kaiming_normal", "--version=run"]
    main(command)
    run, subnet = tmp_path / "quickstart" / "run", tmp_path / "run.subnet"
    summary, last = json.loads((run / "summary.json").read_text()), str(run / "checkpoints" / "last.ckpt")
    assert summary["weights_unchanged"]
    of_checkpoint = SavedRun(last).module()
    assert weights_digest(of_checkpoint.network) == summary["weights_digest"]
    (measured,) = quiet_trainer().test(of_checkpoint, datamodule=Digits(batch_size=64), verbose=False)
    assert measured == {f"test/{name}": summary[f"test_{name}"] for name in ("loss", "accuracy", "top5")}
    subnets(["export", last, str(subnet)])
    header = Container(subnet).header
    assert (header.digests.weights, header.accuracy["test_accuracy"]) == (
        summary["weights_digest"],
        summary["test_accuracy"],
    )
    in_file = masked_weights(load_subnet(subnet, masked=True))
    for name, layer in masked_weights(of_checkpoint.network).items():
        assert torch.equal(layer.mask(), in_file[name].mask())
    (run / "summary.json").unlink()  # as if it had been stopped when it was tested
    main(command)
    again = json.loads((run / "summary.json").read_text())
    assert {key for key in summary if summary[key] != again[key]} <= {"finished", "seconds"}


def test_a_checkpoint_of_weights_alone_before_the_first_update_holds_the_network(tmp_path: Path) -> None:
    steps, folder = Steps(), tmp_path / "alone"
    alone = ModelCheckpoint(folder, filename="first", save_weights_only=True, every_n_train_steps=4)
    fit(with_norms("EdgePopup"), tmp_path / "last", AVERAGES["late EMA"](), steps, alone, epochs=1)
    found = read(folder / "first.ckpt")["state_dict"]
    assert all(torch.equal(found[name], value) for name, value in steps.after[3].items())


@pytest.mark.parametrize("name", ["EMA", pytest.param("mean", marks=pytest.mark.thorough)])
def test_a_checkpoint_of_weights_alone_holds_the_average(name: str, tmp_path: Path) -> None:
    alone = ModelCheckpoint(tmp_path / "alone", save_weights_only=True, monitor="val/accuracy", save_top_k=-1)
    whole = ModelCheckpoint(tmp_path / "whole", monitor="val/accuracy", mode="max", save_top_k=-1)
    fit(with_norms("EdgePopup"), tmp_path / "last", AVERAGES[name](), alone, whole)
    files = list((tmp_path / "alone").iterdir())
    assert len(files) == 2
    for path in files:
        expected = read(tmp_path / "whole" / path.name)
        found = read(path)["state_dict"]
        assert found.keys() == expected["state_dict"].keys()
        assert all(torch.equal(value, found[key]) for key, value in expected["state_dict"].items())
        assert not all(torch.equal(value, found[key]) for key, value in expected["current_model_state"].items())
