"""Gradients have the strides of their parameters, as DistributedDataParallel expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import pytest
import torch
from rank_processes import on_ranks, trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking.method import ScoredWeight
from lightning_subnets.training.module import SubnetModule

pytestmark = pytest.mark.thorough


class LearnedWeights(ls.Method):
    """Uses and trains the larger half of the weights."""

    trainable: ClassVar[Literal["scores", "weights"]] = "weights"

    def __init__(self) -> None:
        self.density = 0.5

    def initial_scores(self, shape: torch.Size, *, seed: int, stream: str) -> None:
        return None

    def masks(self, layers: Sequence[ScoredWeight]) -> list[Tensor]:
        return [layer.weight >= layer.weight.median() for layer in layers]


def train(method: ls.Method) -> None:
    """Take steps in channels_last, where each warning is an error."""
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 8, 1)
    )
    network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)])
    module = SubnetModule(
        network,
        method,
        weights="signed_constant",
        channels_last=True,
        optimizer=lambda trained: torch.optim.SGD(trained, lr=0.1),
    )
    trainer(max_steps=2).fit(module, datamodule=Digits())
    assert ls.raw_weight(network[2]).stride() == (8, 1, 8, 8)  # channels_last, where (8, 1, 1, 1) is contiguous


# Each in its own processes, because torch warns once.
@pytest.mark.parametrize(
    "method",
    [ls.EdgePopup(0.5), ls.PartiallyFrozen(0.5, frozen=0.5), LearnedWeights(), ls.Dense()],
    ids=lambda method: type(method).__name__,
)
def test_1x1_convolutions_train_in_channels_last_without_a_warning_about_strides(method: ls.Method) -> None:
    on_ranks(train, method)
