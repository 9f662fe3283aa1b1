"""edge-popup: train a score for every weight, use the weights with the highest scores."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_subnets import initialization
from lightning_subnets.allocation import check_density
from lightning_subnets.masking import Method, TopK


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

    def mask(self, weight: Tensor, scores: Tensor | None, num_kept: int) -> Tensor:
        assert scores is not None
        mask: Tensor = TopK.apply(scores.abs(), num_kept)
        return mask
