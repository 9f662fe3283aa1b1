"""A real fit in two parts, with everything that is logged by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from test_dashboard_offline import in_csv, logged, on_disk, steps_of
from torch import nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import GradientNorm, MaskStatistics, ScoreHistograms, Throughput
from lightning_subnets.training.loggers import Dashboard, MetricsFile, finish
from lightning_subnets.training.module import SubnetModule

# What is measured by the clock differs between two runs.
TIMED = ("train/images_per_second", "train/data_wait")
MASK = {"density/1", "swapped/1"}


class _CrashError(Exception):
    pass


class _Crash(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise _CrashError


def fit(run: Path, *, checkpoint: Path | None = None, step: int | None = None, crash_at: int = -1) -> SubnetModule:
    torch.manual_seed(0)
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), ls.EdgePopup(0.5))
    loggers = [MetricsFile(str(run), step=step), Dashboard(str(run), step=step)]
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[
            MaskStatistics(),
            Throughput(),
            GradientNorm(),
            ScoreHistograms(),
            _Crash(crash_at),
            ModelCheckpoint(run / "checkpoints", filename="{step}", every_n_train_steps=30, save_top_k=-1),
        ],
        logger=loggers,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=5,
    )
    try:
        trainer.fit(module, datamodule=Digits(), ckpt_path=checkpoint)
        trainer.test(module, datamodule=Digits(), verbose=False)
    finally:
        finish(loggers, 0)
    return module


def repeatable(rows: dict[int, dict[str, float]]) -> dict[int, dict[str, Any]]:
    return {
        step: {name: value for name, value in row.items() if not name.startswith(TIMED)} for step, row in rows.items()
    }


@pytest.fixture(scope="module")
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import wandb

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        wandb.teardown()
        yield
        wandb.teardown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, _offline: None) -> tuple[Path, SubnetModule]:
    run = tmp_path_factory.mktemp("whole") / "version_0"
    return run, fit(run)


def test_every_metric_is_logged_by_default_and_on_the_dashboard_as_in_the_csv_file(
    whole: tuple[Path, SubnetModule],
) -> None:
    rows = in_csv(whole[0])
    assert {name for row in rows.values() for name in row} == {
        *("train/loss", "train/accuracy", "train/images_per_second", "train/data_wait"),
        *("train/loss_step", "train/accuracy_step", "train/images_per_second_step", "train/data_wait_step"),
        *("train/gradient_norm", "learning_rate", "epoch"),
        *(f"{stage}/{name}" for stage in ("val", "test") for name in ("loss", "accuracy", "top5")),
        *MASK,
    }
    shown = logged(on_disk(whole[0]))
    assert {step: {k: v for k, v in row.items() if not k.startswith("scores/")} for step, row in shown.items()} == rows
    assert all(0 <= value < 1 for row in rows.values() for name, value in row.items() if "data_wait" in name)


def test_the_dashboard_shows_histograms_of_each_layers_scores(whole: tuple[Path, SubnetModule]) -> None:
    run, module = whole
    shown = {row["_step"]: row for row in on_disk(run) if "scores/1._type" in row}
    scores: Any = module.network[1].scores  # type: ignore[index]
    assert list(shown) == [22, 45]
    assert sum(shown[45]["scores/1.values"]) == 640
    assert shown[45]["scores/1.bins"][-1] == pytest.approx(float(scores.detach().max()))
    assert "scores/1" not in (run / "metrics.csv").read_text()


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_in_two_parts_logs_what_the_uninterrupted_one_does(
    whole: tuple[Path, SubnetModule], tmp_path: Path
) -> None:
    run = tmp_path / "version_0"
    with pytest.raises(_CrashError):
        fit(run, crash_at=38)  # after the checkpoint of step 30, in the middle of an epoch
    fit(run, checkpoint=run / "checkpoints" / "step=30.ckpt", step=30)
    assert repeatable(in_csv(run)) == repeatable(in_csv(whole[0]))
    assert steps_of(on_disk(run)) == steps_of(on_disk(whole[0]))
