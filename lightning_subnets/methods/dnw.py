"""Discovering neural wirings: train all weights, compute with the largest ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_subnets.masking import selection
from lightning_subnets.masking.allocation import check_density
from lightning_subnets.masking.masked_weight import counts_of
from lightning_subnets.masking.method import Method, ScoredWeight


class DNW(Method):
    """A mask and weights that are learned together: weights outside the mask get a gradient too, and may return.

    Forward:  w_eff = w * h(|w|), h = 1 for the layer's k largest |w|.
    Backward: dw = dL/dw_eff for all weights, straight through h.

    Args:
        density: fraction of the weights kept in every layer, in (0, 1].

    Raises:
        ValueError: if the density is out of range.
    Source: Wortsman et al. 2019, "Discovering Neural Wirings", the case of sparse networks of a fixed architecture.
    """

    trainable = "weights"
    ranks_by_magnitude = True

    def __init__(self, density: float) -> None:
        self.density = check_density(density)

    def initial_scores(self, shape: torch.Size, *, seed: int, stream: str) -> None:
        return None

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        return selection.top_k_each([each.weight for each in weights], counts_of(weights), absolute=True)

    def weight_gradient(self, gradient: Tensor, mask: Tensor) -> Tensor:
        return gradient
