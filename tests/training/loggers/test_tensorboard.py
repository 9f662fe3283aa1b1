from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from small_runs import quiet_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import ScoreHistograms
from lightning_subnets.training.loggers import TensorBoard, add_pictures
from lightning_subnets.training.module import SubnetModule

SAID = "TensorBoard's file in {} cannot be written (No space left on device): metrics.csv has all metrics\n"


def fit(folder: Path) -> Trainer:
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), ls.EdgePopup(0.5))
    logger = TensorBoard(str(folder), name="", version="")
    trainer = quiet_trainer(logger=logger, callbacks=[ScoreHistograms()], max_epochs=2)
    trainer.fit(module, datamodule=Digits(batch_size=288))
    return trainer


# The first is written when the file is begun, by a thread of TensorBoard's that shows its own error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("writes", [0, 1, 5, 20])
def test_a_full_disk_does_not_end_the_run_and_is_reported_once(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    write, left = LocalFileSystem._write, iter(range(writes))

    def until_full(self: LocalFileSystem, *arguments: object) -> None:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        write(self, *arguments)

    monkeypatch.setattr(LocalFileSystem, "_write", until_full)
    assert fit(tmp_path).global_step == 10
    assert capsys.readouterr().err == SAID.format(tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("in_the_fit", [True, False])
def test_a_full_disk_ends_neither_the_test_nor_the_pictures(
    in_the_fit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    write, full = LocalFileSystem._write, False

    def until_full(self: LocalFileSystem, *arguments: object) -> None:
        if full:
            raise OSError(28, "No space left on device")
        write(self, *arguments)

    monkeypatch.setattr(LocalFileSystem, "_write", until_full)
    Image.new("RGB", (4, 3)).save(tmp_path / "curves.png")
    logger = TensorBoard(str(tmp_path), name="", version="")
    logger.log_metrics({"val/accuracy": 0.5}, 0)
    full = in_the_fit
    logger.log_metrics({"val/accuracy": 0.6}, 1)
    logger.finalize("success")  # as Lightning does after the fit
    full = True
    logger.log_metrics({"test/accuracy": 0.5}, 1)
    logger.finalize("success")
    add_pictures([logger], [tmp_path / "curves.png"])
    assert capsys.readouterr().err == SAID.format(tmp_path)


def test_the_fit_the_test_and_the_pictures_are_in_one_file(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "curves.png")
    trainer = fit(tmp_path)
    trainer.test(trainer.lightning_module, datamodule=Digits(), verbose=False)
    add_pictures(trainer.loggers, [tmp_path / "curves.png"])
    (file,) = tmp_path.glob("events.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert {"val/accuracy", "test/accuracy"} <= {*events.Tags()["scalars"]}
    assert events.Tags()["images"] == ["pictures/curves"]


def test_the_pictures_of_a_run_are_shown(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), "red").save(tmp_path / "curves.png")
    logger = TensorBoard(str(tmp_path), name="", version="")
    add_pictures([logger], [tmp_path / "curves.png"])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (picture,) = events.Images("pictures/curves")
    assert (picture.width, picture.height) == (4, 3)


def test_hyperparameters_that_cannot_be_written_do_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hparams.yaml").symlink_to("/dev/full")
    assert torch.is_tensor(fit(tmp_path).callback_metrics["train/loss"])
    assert capsys.readouterr().err == SAID.format(tmp_path)
