"""Signed supermasks: keep, drop or flip each weight, by a threshold on its score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking import initialization, selection
from lightning_subnets.masking.frozen_edges import check_frozen
from lightning_subnets.masking.masked_weight import scores_of
from lightning_subnets.masking.method import Method, ScoredWeight


class SignedSupermask(Method):
    """A subnetwork of random weights that are kept, dropped or flipped.

    Forward:  w_eff = w * m, m = sign(s) * 1[|s| > t], in {-1, 0, 1}.
    Backward: ds = w * dL/dw_eff, straight through m.

    The scores determine how many weights are kept: ``density`` is that of the start, and runs report the one at the
    end. Weight decay on the scores lowers it. ``Multicoated(density, inner=[], signed=True)`` fixes it instead.

    Args:
        density: d, the expected fraction kept at the start, in (0, 1): scores start from U(-b, b), b = t / (1 - d).
        threshold: t, above 0; 0.01 in the paper. With Adam, a score moves by about the learning rate in a step.
        frozen: the share of the edges that are not searched, as for ``PartiallyFrozen``; those kept have m = 1, and all
            of them ds = 0.

    Raises:
        ValueError: if an argument is out of range.
    Source: Koster et al. 2022, "Signing the Supermask: Keep, Hide, Invert". There scores start from an
        initialisation of the authors' for ELU networks.
    """

    trainable = "scores"

    def __init__(self, density: float = 0.5, *, threshold: float = 0.01, frozen: float = 0.0) -> None:
        if not 0.0 < density < 1.0:
            raise UserError(f"density = {density} is outside (0, 1): it is the fraction kept at the start")
        if not 0.0 < threshold < float("inf"):
            raise UserError(
                f"threshold = {threshold} is not above 0 and finite: a weight is kept if its |score| exceeds it"
            )
        self.density, self.threshold, self.frozen = density, threshold, check_frozen(frozen)

    def num_kept(self, total: int) -> None:
        return None

    def initial_scores(self, shape: torch.Size, *, seed: int, stream: str) -> Tensor:
        scores = initialization.draw_scores(shape, seed=seed, stream=stream, spread=initialization.fans(shape)[0])
        return scores * (self.threshold / (1 - self.density))

    def scores_for_mask(self, mask: Tensor, scores: Tensor) -> Tensor:
        kept = 1.001 * self.threshold + scores.abs()  # above the threshold for a score of 0 too
        return torch.where(mask != 0, torch.where(mask < 0, -kept, kept), scores * (1 - self.density) * 0.999)

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        found = []
        for each, scores in zip(weights, scores_of(weights), strict=True):
            selection.check_numbers(scores)
            multiplier = (scores > self.threshold).to(torch.int8) - (scores < -self.threshold).to(torch.int8)
            if each.frozen_edges:
                pattern = each.frozen_edges.on(scores.device)
                multiplier = torch.where(pattern == 0, multiplier, pattern.clamp(min=0))
            found.append(multiplier)
        return found

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        return weight * gradient
