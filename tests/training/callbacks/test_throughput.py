from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.profilers import SimpleProfiler
from metric_rows import column
from rank_processes import on_ranks
from small_runs import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import lightning_subnets as ls
from lightning_subnets.training.callbacks import Throughput
from lightning_subnets.training.loggers import MetricsFile
from lightning_subnets.training.module import SubnetModule

BATCHES, IMAGES = 8, 5


class _Slow(Callback):
    """A clock that only moves where it is told to: loading, steps, validation and checkpoints take 1, 2, 40, 700 s."""

    now, step, growth = 0.0, 2.0, 0.0

    def setup(self, *_: Any, **__: Any) -> None:
        type(self).now += 10_000.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        type(self).now += self.step + self.growth * batch_idx

    def on_validation_epoch_start(self, *_: Any) -> None:
        type(self).now += 40.0

    def on_save_checkpoint(self, *_: Any) -> None:
        type(self).now += 700.0


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    def __getitem__(self, _: int) -> tuple[Tensor, Tensor]:
        _Slow.now += 1.0
        return torch.zeros(IMAGES, 4), torch.zeros(IMAGES, dtype=torch.long)

    def __len__(self) -> int:
        return BATCHES


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    _Slow.now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: _Slow.now)


def fit(folder: Path, *callbacks: Callback, checkpoint: Path | None = None, **options: Any) -> Trainer:
    module = SubnetModule(nn.Linear(4, 2), ls.EdgePopup(0.5), schedule="constant")
    loader: Any = DataLoader(_Batches(), batch_size=None)
    options = {"max_epochs": 2, "log_every_n_steps": 2, "logger": MetricsFile(str(folder))} | options
    trainer = quiet_trainer(callbacks=[Throughput(), _Slow(), *callbacks], num_sanity_val_steps=1, **options)
    trainer.fit(module, loader, loader, ckpt_path=checkpoint)
    return trainer


def each(steps: list[int], value: float) -> Any:
    return dict.fromkeys(steps, pytest.approx(value))


def test_only_loading_and_steps_of_training_count(tmp_path: Path) -> None:
    trainer = fit(tmp_path, ModelCheckpoint(tmp_path / "saved", every_n_train_steps=3))
    loader: Any = DataLoader(_Batches(), batch_size=None)
    trainer.test(trainer.lightning_module, loader, verbose=False)
    quiet_trainer(callbacks=[Throughput()]).validate(trainer.lightning_module, loader, verbose=False)
    for suffix, steps in (("", [7, 15]), ("_step", [1, 3, 5, 7, 9, 11, 13, 15])):
        assert column(tmp_path, f"train/images_per_second{suffix}") == each(steps, IMAGES / 3)
        assert column(tmp_path, f"train/data_wait{suffix}") == each(steps, 1 / 3)


def test_accumulated_batches_are_counted_each_and_logged_once_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Slow, "growth", 1.0)
    fit(tmp_path, accumulate_grad_batches=2, log_every_n_steps=2, max_epochs=1)
    first, second = 4 * IMAGES / (3 + 4 + 5 + 6), 4 * IMAGES / (7 + 8 + 9 + 10)
    assert column(tmp_path, "train/images_per_second_step") == each([1], first) | each([3], second)
    assert column(tmp_path, "train/images_per_second") == each([3], 8 * IMAGES / 52)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_resumed_epoch_counts_from_where_it_resumes(tmp_path: Path) -> None:
    saved = ModelCheckpoint(tmp_path / "saved", filename="{step}", every_n_train_steps=5, save_top_k=-1)
    fit(tmp_path, saved, max_epochs=1)
    (tmp_path / "metrics.csv").unlink()
    saved = ModelCheckpoint(tmp_path / "saved again", filename="{step}", every_n_train_steps=5, save_top_k=-1)
    checkpoint = tmp_path / "saved" / "step=5.ckpt"
    fit(tmp_path, saved, checkpoint=checkpoint, max_epochs=1)
    assert column(tmp_path, "train/images_per_second") == each([7], IMAGES / 3)


@pytest.mark.parametrize("options", [{"log_every_n_steps": 0}, {"logger": False}])
def test_without_steps_to_log_the_epoch_is_still_measured(options: dict[str, Any], tmp_path: Path) -> None:
    metrics = fit(tmp_path, **options).callback_metrics
    assert metrics["train/images_per_second"] == torch.tensor(IMAGES / 3)
    assert metrics["train/data_wait"] == torch.tensor(1 / 3)
    assert not column(tmp_path, "train/images_per_second_step")


class _Stop(Callback):
    """Ends the fit by an error."""

    def on_train_epoch_end(self, *_: Any) -> None:
        raise RuntimeError("stop")


@pytest.mark.parametrize("callbacks", [[], [_Stop()]], ids=["finished", "failed"])
def test_the_users_profiler_records_and_is_restored(callbacks: list[Callback], tmp_path: Path) -> None:
    profiler = SimpleProfiler()
    with pytest.raises(RuntimeError, match="stop") if callbacks else nullcontext():
        fit(tmp_path, *callbacks, profiler=profiler, max_epochs=1)
    assert len(profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]) == BATCHES
    assert "start" not in vars(profiler)


def fit_on_a_rank(folder: Path) -> None:
    time.perf_counter = lambda: _Slow.now
    _Slow.step = 2.0 + int(os.environ["LOCAL_RANK"])
    fit(folder, devices=2, max_epochs=1, limit_val_batches=0)


@pytest.mark.thorough
def test_the_ranks_speeds_are_summed_and_their_waits_averaged(tmp_path: Path) -> None:
    on_ranks(fit_on_a_rank, tmp_path)
    assert column(tmp_path, "train/images_per_second") == each([3], IMAGES / 3 + IMAGES / 4)
    assert column(tmp_path, "train/data_wait") == each([3], (1 / 3 + 1 / 4) / 2)
    assert column(tmp_path, "train/images_per_second_step") == each([1, 3], 2 * IMAGES / 3)
