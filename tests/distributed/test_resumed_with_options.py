"""Ranks stop in the middle of an epoch and resume, as many or more of them, with an average and with accumulation."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from rank_processes import on_ranks, trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.training.callbacks import LastCheckpoint
from lightning_subnets.training.callbacks.last_checkpoint import Stopped
from lightning_subnets.training.module import SubnetModule

pytestmark = pytest.mark.thorough

COUNT = 144


class FewDigits(Digits):
    """Digits whose first pixel is the number of the image."""

    def load(self, *, train: bool) -> Batch:
        images, labels = super().load(train=train)
        images = images[:COUNT].clone()
        images[:, 0, 0, 0] = torch.arange(COUNT)
        return images, labels[:COUNT]


class Watch(Callback):
    """Keeps the numbers of the images, and asks one rank to stop after a step."""

    def __init__(self, data: Digits, stop: int | None) -> None:
        self.data, self.stop = data, stop
        self.seen: list[list[int]] = [[], []]  # by epoch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        pixels = batch[0][:, 0, 0, 0] * 255 * self.data.std[0] + 255 * self.data.mean[0]
        self.seen[trainer.current_epoch] += pixels.round().int().tolist()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.stop and trainer.global_rank == 1:
            (last,) = (each for each in trainer.callbacks if isinstance(each, LastCheckpoint))  # type: ignore[attr-defined]
            last._limit = 0.0  # as if max_time were over on this rank only


def train(folder: Path, stop: int | None) -> tuple[list[list[int]], dict[str, Tensor], int]:
    """Train two epochs, or a part of them; return the images of this rank, the network and the steps done."""
    network = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
    module = SubnetModule(network, ls.EdgePopup(0.5), optimizer=lambda scores: torch.optim.Adam(scores, lr=0.01))
    data = FewDigits(batch_size=6, validation_fraction=0.0)
    last, watch = LastCheckpoint(folder), Watch(data, stop)
    callbacks = [EMAWeightAveraging(decay=0.8), watch, last]
    fit = trainer(max_epochs=2, accumulate_grad_batches=2, limit_val_batches=0, callbacks=callbacks)
    with pytest.raises(Stopped) if stop else nullcontext():
        fit.fit(module, datamodule=data, ckpt_path=last.best_model_path or None, weights_only=True)
    return watch.seen, module.network.state_dict(), fit.global_step


def together(parts: list[Any], epoch: int) -> list[int]:
    return sorted(number for seen, *_ in parts for number in seen[epoch])


def test_ranks_resume_to_the_bit_and_more_of_them_train_on_the_rest_of_the_epoch(tmp_path: Path) -> None:
    whole = on_ranks(train, tmp_path / "whole", None)
    assert [together(whole, epoch) for epoch in (0, 1)] == [list(range(COUNT))] * 2
    assert [steps for *_, steps in whole] == [12, 12]  # 2 ranks, 2 batches of 6 images a step

    # One rank's time is over, and both stop after a later step, in the middle of the first epoch.
    stopped = on_ranks(train, tmp_path / "stopped", 2)
    (steps,) = {steps for *_, steps in stopped}
    assert 2 <= steps < 6
    three = tmp_path / "three"
    three.mkdir()
    (three / "last.ckpt").write_bytes((tmp_path / "stopped" / "last.ckpt").read_bytes())

    resumed = on_ranks(train, tmp_path / "stopped", None)
    for before, after, expected in zip(stopped, resumed, whole, strict=True):
        assert before[0][0] + after[0][0] == expected[0][0]
        assert after[0][1] == expected[0][1]
        assert after[2] == expected[2]
        assert all(torch.equal(after[1][key], value) for key, value in expected[1].items())

    more = on_ranks(train, three, None, ranks=3)
    assert sorted(together(stopped, 0) + together(more, 0)) == together(more, 1) == list(range(COUNT))
    assert all(torch.equal(more[0][1][key], value) for other in more[1:] for key, value in other[1].items())
