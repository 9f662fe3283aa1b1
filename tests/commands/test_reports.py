"""The summary and the pictures of a run, for unusual networks, data, methods and names."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICKSTART
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_subnets import EdgePopup, UserError, mask_, masks
from lightning_subnets.commands.cli import main
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.datamodules import Digits
from lightning_subnets.graph.diagnostics import log10_path_kernel_trace
from lightning_subnets.training.checkpoint import CheckpointFiles
from lightning_subnets.training.module import SubnetModule

SHAPE = (1, 8, 8)


class Negative(nn.Module):
    """A network whose outputs fall as its weights grow, so that sums over paths are negative."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(64, 32), nn.Linear(32, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(self.hidden(images.flatten(1)).relu())
        return -logits


class InFloat32(Negative):
    """A network that always computes in float32."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.float())


class Branching(Negative):
    """A network whose code depends on the numbers, so its units cannot be followed."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if float(images.sum()) else images.flatten(1)[:, :10]


class WithoutTest(LightningDataModule):
    """Images for training and validation only, without a seed."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.randn(64, *SHAPE), torch.arange(64) % 10), batch_size=32)

    val_dataloader = train_dataloader


def options(root: Path) -> list[str]:
    length = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    return ["fit", "-c", str(QUICKSTART), "--trainer.accelerator=cpu", f"--trainer.default_root_dir={root}", *length]


@pytest.mark.parametrize(
    ("network", "reason"),
    [("InFloat32", "does not compute in float64"), ("Negative", "terms of the sum are negative")],
)
def test_a_network_whose_paths_cannot_be_summed_has_no_trace_and_a_line_says_why(
    network: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masked = [f"--model.network=test_reports.{network}", "--model.keep_dense=[output]"]
    main([*options(tmp_path), *masked, "--name=lr$^$"])
    run = tmp_path / "lr$^$" / "version_0"  # would be a wrong formula in a picture
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "trace of the path kernel" in line]
    assert reason in said
    summary = json.loads((run / "summary.json").read_text())
    assert summary["log10_trace"] is None
    assert summary["log10_paths"] > 0
    assert {picture.name for picture in run.glob("*.png")} >= {"curves.png", "widths.png"}
    last = str(run / "checkpoints" / "last.ckpt")
    subnets(["inspect", last, "--against", last])
    said = " ".join(capsys.readouterr().out.split())
    assert reason in said
    assert summary["density"] == 0.5
    assert "density 50.000%" in said
    assert "output │ 320 │ dense" in said


@pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers")
def test_data_without_test_images_are_reported_as_not_tested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: Callable[..., str]
) -> None:
    main([*options(tmp_path), "--data=test_reports.WithoutTest"])
    summary = json.loads((tmp_path / "quickstart" / "version_0" / "summary.json").read_text())
    assert (summary["test_accuracy"], summary["steps"]) == (None, 2)
    said = capsys.readouterr()
    assert "not tested" in said.out
    assert "WithoutTest has no test images, so the run ends without a test" in said.err
    assert "classes and preprocessing are left out: WithoutTest is not an ImageDataModule, so its images" in said.err
    run = str(tmp_path / "quickstart" / "version_0")
    for command, shape in (("inspect", True), ("check", False)):
        error = mistake([command, run], subnets)
        assert "derive it from lightning_subnets.datamodules.images.ImageDataModule" in error
        assert ("--input_shape='[3, 224, 224]'" in error) == shape


def test_a_network_whose_units_cannot_be_followed_is_reported_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*options(tmp_path), "--model.network=test_reports.Branching"])
    run = tmp_path / "quickstart" / "version_0"
    summary = json.loads((run / "summary.json").read_text())
    assert [summary[name] for name in ("log10_paths", "log10_trace", "units_on_paths")] == [None] * 3
    assert summary["test_accuracy"] > 0
    assert not (run / "widths.png").exists()
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("the summary has no")]
    assert "the units of Branching cannot be followed" in said


def test_a_sum_over_paths_that_is_negative_or_in_float32_is_an_error() -> None:
    found = masks(mask_(Negative(), EdgePopup(0.5)))
    with pytest.raises(UserError, match="Negative has no trace of the path kernel: terms of the sum are negative"):
        log10_path_kernel_trace(Negative(), found, SHAPE)
    with pytest.raises(UserError, match="InFloat32 does not compute in float64"):
        log10_path_kernel_trace(InFloat32(), found, SHAPE)


class Tagged(EdgePopup):
    """A user's own method, with an argument of any kind."""

    def __init__(self, tags: object) -> None:
        super().__init__(0.5)
        self.tags = tags


@pytest.mark.parametrize("tags", [torch.ones(2), signal.SIGTERM, math.nan, [{1: np.int64(3)}], {(1, 2): 3}], ids=str)
def test_arguments_that_no_checkpoint_can_hold_are_an_error_before_training(tags: object, tmp_path: Path) -> None:
    class Began(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise AssertionError("it has begun")

    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[Began()], default_root_dir=tmp_path, max_epochs=1)
    with pytest.raises(UserError, match=r"Tagged\.identity\(\) has tags = .*no checkpoint .*: override it to return"):
        trainer.fit(SubnetModule(Negative(), Tagged(tags)), datamodule=Digits())


@pytest.mark.parametrize("tags", [((1, 2), (3, 4)), {1: 0.5, None: [True]}, math.inf, 2**80], ids=str)
def test_a_method_with_plain_arguments_can_resume(tags: object, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for epochs in (1, 2):
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_train_batches=1,
            limit_val_batches=0,
            default_root_dir=tmp_path,
            max_epochs=epochs,
        )
        trainer.strategy.checkpoint_io = CheckpointFiles()
        trainer.fit(SubnetModule(Negative(), Tagged(tags)), Digits(), ckpt_path=path if path.exists() else None)
        assert trainer.global_step == epochs
        trainer.save_checkpoint(path)


class OnTheTestSet(Callback):
    """Changes a weight after the last epoch."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        next(pl_module.parameters()).data.view(-1)[0] += 1


def test_a_frozen_weight_that_is_changed_after_training_is_an_error_once_the_summary_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="frozen weights have changed"):
        main([*options(tmp_path), "--trainer.callbacks+=test_reports.OnTheTestSet"])
    summary = json.loads((tmp_path / "quickstart" / "version_0" / "summary.json").read_text())
    assert summary["weights_unchanged"] is False
