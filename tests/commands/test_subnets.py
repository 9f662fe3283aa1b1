"""``subnets inspect`` and ``subnets check`` of a finished run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from lightning_subnets import density
from lightning_subnets.commands.subnets import main
from lightning_subnets.datamodules import Digits
from lightning_subnets.run_files.saved_run import SavedRun


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """Copy the run, because the commands draw pictures in its directory."""
    return Path(shutil.copytree(finished_run, tmp_path / "quickstart" / "version_0"))


def last(run: Path) -> str:
    return str(run / "checkpoints" / "last.ckpt")


def test_a_saved_run_is_the_network_that_was_tested(run: Path) -> None:
    saved = SavedRun(last(run))
    module, data = saved.module(), saved.data()
    assert isinstance(data, Digits)
    data.setup("test")
    module.eval()
    with torch.inference_mode():
        hits = [(module(data.normalize(images)).argmax(dim=1) == labels) for images, labels in data.test_dataloader()]
    summary = json.loads((run / "summary.json").read_text())
    assert torch.cat(hits).float().mean().item() == pytest.approx(summary["test_accuracy"], abs=1e-6)
    assert density(module.network) == summary["density"]


def test_inspect_prints_and_draws_each_layer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", last(run)])
    said = capsys.readouterr().out
    for part in ("density 50.000%", "classifier.5", "10 of 10", "trace of the path kernel 10^"):
        assert part in said
    with Image.open(run / "widths.png") as picture:
        assert picture.width > 1000


@pytest.mark.thorough
def test_check_shows_that_the_mask_depends_on_its_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", last(run), "--seeds=2", "--batches=2"])
    said = capsys.readouterr().out
    found = {}
    for line in said.splitlines():
        cells = [cell.strip() for cell in line.split("│") if cell.strip()]
        if len(cells) > 1 and cells[1].endswith("%"):
            found[cells[0]] = float(cells[1].rstrip("%")) / 100
    summary = json.loads((run / "summary.json").read_text())
    assert found["as found"] == pytest.approx(summary["test_accuracy"], abs=1e-4)
    assert found["as found"] > 0.8
    others = {what: accuracy for what, accuracy in found.items() if what != "as found"}
    assert len(others) == 10
    assert max(others.values()) < 0.4


def test_missing_data_or_config_of_a_run_are_named(run: Path, mistake: Callable[..., str]) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] = {"class_path": "lightning_subnets.datamodules.CIFAR10", "init_args": {"batch_size": 64}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "data/cifar10 holds neither" in mistake(["check", last(run)], main)
    (run / "config.yaml").unlink()
    assert "config.yaml is missing: it says how the network of" in mistake(["inspect", last(run)], main)
