"""Dense training: the baseline every subnetwork is held against."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_subnets.masking import Method


class Dense(Method):
    """All weights are used and trained: the horizontal lines of the paper's figures.

    Source: Ramanujan et al. 2020, section 4.1, "Learned Dense Weights".
    """

    trains = "weights"
    density = 1.0

    def __init__(self) -> None:
        pass

    def initial_scores(self, shape: torch.Size, *, seed: int, layer: str) -> None:
        return None

    def mask(self, weight: Tensor, scores: Tensor | None, num_kept: int) -> Tensor:
        return torch.ones_like(weight)

    def masked_weight(self, weight: Tensor, scores: Tensor | None, num_kept: int) -> Tensor:
        return weight
