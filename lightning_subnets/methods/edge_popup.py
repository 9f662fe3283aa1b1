"""edge-popup: train a score for every weight, use the weights with the highest scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_subnets import initialization, selection
from lightning_subnets.allocation import check_density
from lightning_subnets.masking import MaskedLayer, Method


class EdgePopup(Method):
    """A subnetwork of fixed random weights, found by gradient descent on scores alone.

    Forward:  w_eff = w * h(|s|), h = 1 for the layer's k largest |s| (Eq. 4).
    Backward: ds = sign(s) * w * dL/dw_eff, straight through h (Eq. 5).

    Args:
        density: fraction of the weights kept in every layer, in (0, 1].

    Raises:
        ValueError: if the density is out of range.
    Source: Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted Neural Network?", section 3.2.
    """

    trains = "scores"

    def __init__(self, density: float) -> None:
        self.density = check_density(density)

    def initial_scores(self, shape: torch.Size, *, seed: int, layer: str) -> Tensor:
        return initialization.draw_scores(shape, seed=seed, layer=layer)

    def masks(self, layers: Sequence[MaskedLayer]) -> list[Tensor]:
        scores = [layer.scores for layer in layers if layer.scores is not None]
        return selection.top_k_each(scores, [layer.num_kept for layer in layers], absolute=True)

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        # In one tensor: the others would be as large as all weights together.
        return scores.sign().mul_(weight).mul_(gradient)
