"""Dense training: the baseline for every subnetwork."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_subnets.masking.method import Method, ScoredLayer


class Dense(Method):
    """A dense network with all weights trained.

    Source: Ramanujan et al. 2020, section 4.1, "Learned Dense Weights".
    """

    trainable: ClassVar[Literal["scores", "weights", "last layer"]] = "weights"
    cacheable = False
    density = 1.0

    def __init__(self) -> None:
        pass

    def initial_scores(self, shape: torch.Size, *, seed: int, layer: str) -> None:
        return None

    def masks(self, layers: Sequence[ScoredLayer]) -> list[Tensor]:
        return [torch.ones_like(layer.weight, dtype=torch.bool) for layer in layers]

    def masked_weight(self, layer: ScoredLayer) -> Tensor:
        return layer.weight
