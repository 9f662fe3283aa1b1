"""edge-popup: train a score for every weight, and compute with the weights that have the highest scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from lightning_subnets.masking import allocation, initialization, selection
from lightning_subnets.masking.allocation import check_allocation, check_density
from lightning_subnets.masking.masked_weight import counts_of, scores_of
from lightning_subnets.masking.method import Method, ScoredWeight

Allocation = Literal["uniform", "erk", "equal", "smart_ratio", "global"]


class EdgePopup(Method):
    """A subnetwork of fixed random weights, found by gradient descent on scores alone.

    Forward:  w_eff = w * h(|s|), h = 1 for the layer's k largest |s| (Eq. 4).
    Backward: ds = sign(s) * w * dL/dw_eff, straight through h (Eq. 5).

    Args:
        density: fraction of the weights kept, in (0, 1].
        allocation: ``uniform`` keeps this fraction of every layer, as in the paper. ``erk`` keeps more of small layers,
            ``smart_ratio`` more of the first layers, see ``allocation.erk`` and ``allocation.smart_ratio``; ``equal``
            keeps equally many weights of every layer. ``global`` keeps the highest scores of all layers together, and
            all scores start from U(-b, b) with one b: the paper's b is smaller in larger layers, which would start
            empty.
        absolute: whether to rank by |s|, as the paper's public code does; otherwise by s, with ds = w * dL/dw_eff.

    Raises:
        ValueError: if the density is out of range or the allocation is unknown; or, by ``mask_``, if ``smart_ratio``
            would keep more of the last layer than the density keeps in all.
    Source: Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted Neural Network?", section 3.2.
    """

    trainable = "scores"
    spread: ClassVar[float] = 1.0  # see ``initialization.draw_scores``

    def __init__(self, density: float, *, allocation: Allocation = "uniform", absolute: bool = True) -> None:
        self.density, self.absolute = check_density(density), absolute
        self.allocation = check_allocation(allocation, get_args(Allocation))

    @property
    def global_ranking(self) -> bool:
        return self.allocation == "global"

    def num_kept(self, total: int) -> int | None:
        return None if self.global_ranking else super().num_kept(total)

    def counts(self, shapes: Mapping[str, torch.Size]) -> Mapping[str, int | None]:
        if self.allocation in ("uniform", "global"):  # by ``num_kept``, which a subclass may override
            return super().counts(shapes)
        return allocation.BY_SHAPES[self.allocation](shapes, self.density)

    def initial_scores(self, shape: torch.Size, *, seed: int, stream: str) -> Tensor:
        scores = initialization.draw_scores(shape, seed=seed, stream=stream, spread=self.spread)
        if self.global_ranking:
            scores *= _GLOBAL_BOUND * math.sqrt(initialization.fans(shape)[0])
        return scores

    def scores_for_mask(self, mask: Tensor, scores: Tensor) -> Tensor:
        # Move kept scores into the upper half of (0, b), the others into the lower half; global ranking needs one b.
        bound = _GLOBAL_BOUND * math.sqrt(self.spread) if self.global_ranking else float(scores.abs().max())
        above = bound / 2 + scores.abs() / 2
        return torch.where(mask, above.copysign(scores) if self.absolute else above, scores * 0.499)

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        scores, counts = scores_of(weights), counts_of(weights)
        if self.global_ranking:
            # ``GradualDensity`` sets the k of all weights together.
            k = counts[0] if counts else allocation.num_kept(sum(each.numel() for each in scores), self.density)
            return list(selection.top_k_together(dict(enumerate(scores)), k, absolute=self.absolute).values())
        return selection.top_k_each(scores, counts, absolute=self.absolute)

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        if not self.absolute:
            return weight * gradient
        # Not in place: under vmap, only the gradient has a dimension more.
        return scores.sign().mul_(weight) * gradient


_GLOBAL_BOUND = 0.05  # the paper's sqrt(1 / fan_in) of a layer with 400 inputs
