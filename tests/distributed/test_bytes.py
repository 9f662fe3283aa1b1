"""The bytes that ranks send each other, by the kernel's count: the gradients of the scores and little else."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rank_processes import bytes_sent, on_ranks, trainer
from torch import nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.module import SubnetModule

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the bytes of a connection"),
]

WEIGHTS = 64 * 9 + 64 * 256 + 1024 * 10  # 109 kB
NORMS = 2 * (64 + 256)  # 2.6 kB
# Gloo adds some bytes to each message. A step also sends the logged loss and the requests to stop.
SMALL = 2000


class Traffic(Callback):
    """Bytes this rank has sent before the first step, from each step to the next, and in an evaluation."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.evaluation = 0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append(bytes_sent())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluation = bytes_sent()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluation = bytes_sent() - self.evaluation


def train(strategy: str) -> dict[str, Any]:
    network = nn.Sequential(
        nn.Conv2d(1, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 256, 1, bias=False)
    )
    network.extend([nn.BatchNorm2d(256), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(1024, 10)])
    module = SubnetModule(network, ls.EdgePopup(0.5), optimizer=lambda trained: torch.optim.Adam(trained, lr=0.05))
    traffic = Traffic()
    fit = trainer(max_steps=20, max_epochs=-1, val_check_interval=20, callbacks=[traffic], strategy=strategy)
    fit.fit(module, datamodule=Digits(batch_size=32))
    begin, *others = [after - before for before, after in itertools.pairwise([0, *traffic.steps])]
    return {
        "begin": begin,
        "steps": others,
        "evaluation": traffic.evaluation,
        "loss": fit.callback_metrics["val/loss"].item(),
    }


def is_small(traffic: dict[str, Any], bytes_each: int = 4) -> bool:
    """Whether a rank has sent no more than the gradients of the scores in each step."""
    gradients = bytes_each * WEIGHTS
    return all(gradients < step < gradients + SMALL for step in traffic["steps"])


def test_a_step_sends_the_gradients_of_the_scores_and_training_never_sends_frozen_weights() -> None:
    whole, half = on_ranks(train, "auto"), on_ranks(train, "ddp_bf16")
    assert all(is_small(rank) for rank in whole)
    assert all(is_small(rank, bytes_each=2) for rank in half)
    for rank in (*whole, *half):
        assert rank["begin"] < WEIGHTS
        assert 4 * NORMS < rank["evaluation"] < 4 * NORMS + 2 * SMALL
    # It learns as well by gradients of half the bytes.
    for losses in zip(*([rank["loss"] for rank in ranks] for ranks in (whole, half)), strict=True):
        assert max(losses) < 1.2
        assert losses[0] == pytest.approx(losses[1], abs=0.1)
