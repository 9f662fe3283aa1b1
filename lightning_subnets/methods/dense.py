"""Dense training: the baseline for every subnetwork."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_subnets.masking.method import Method, ScoredWeight


class Dense(Method):
    """A dense network with all weights trained.

    Source: Ramanujan et al. 2020, section 4.1, "Learned Dense Weights".
    """

    trainable: ClassVar[Literal["scores", "weights", "last layer"]] = "weights"
    cacheable = False
    density = 1.0

    def __init__(self) -> None:
        pass

    def initial_scores(self, shape: torch.Size, *, seed: int, stream: str) -> None:
        return None

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        return [torch.ones_like(each.weight, dtype=torch.bool) for each in weights]

    def uncached_weight(self, weight: ScoredWeight) -> Tensor:
        return weight.weight
