"""Multicoated supermasks: nested masks whose sum multiplies the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking import selection
from lightning_subnets.masking.frozen_edges import searched_scores
from lightning_subnets.masking.masked_weight import counts_of, scores_of
from lightning_subnets.masking.method import ScoredWeight
from lightning_subnets.methods.edge_popup import Allocation
from lightning_subnets.methods.partially_frozen import PartiallyFrozen


class Multicoated(PartiallyFrozen):
    """A subnetwork of random weights, each multiplied by the number of nested masks that it is in.

    Forward:  w_eff = w * m, m = sum over j of 1[|s| >= t_j], in 0..M. Coat 1 has a weight's k largest |s|, as in
              ``EdgePopup``; coat j has the round(c_j k) largest. With ``frozen`` edges, k counts the searched edges
              that are kept, and the coats choose among the searched ones.
    Backward: ds = M sign(s) * w * dL/dw_eff, because the gradient passes straight through each coat.

    ``signed`` multiplies m by sign(s), so that a score also chooses the sign of its weight; then ds = M w * dL/dw_eff.
    With ``frozen`` edges too, this searches connectivity, sign and magnitude together. That combination is of this
    package; the paper has neither.

    Args:
        density: d, the fraction of the weights kept, in (0, 1].
        inner: c_2 to c_M, the sizes of the inner coats as shares of the first, falling, in (0, 1). By default those of
            the paper's coats with densities 0.3, 0.0788 and 0.0315.
        signed: whether scores choose signs too.
        frozen: the share of the edges that are not searched, as for ``PartiallyFrozen``; those kept have m = 1, and all
            of them ds = 0.
        allocation: as for ``PartiallyFrozen``.

    Raises:
        ValueError: if an argument is out of range.
    Source: Okoshi et al. 2022, "Multicoated Supermasks Enhance Hidden Networks". There scores start from
        N(0, 2 / fan_out); here they start as in ``EdgePopup``, so learning rates differ.
    """

    def __init__(
        self,
        density: float,
        *,
        inner: Sequence[float] = (0.2627, 0.105),
        signed: bool = False,
        frozen: float = 0.0,
        allocation: Allocation = "uniform",
    ) -> None:
        super().__init__(density, frozen=frozen, allocation=allocation)
        if isinstance(inner, float | int):
            raise UserError(f"inner = {inner} is a number: it is a list of shares, [{inner}] for one inner coat")
        falling = [1.0, *inner]
        if len(inner) > 126 or any(not 0.0 < share < outer for outer, share in zip(falling, inner, strict=False)):
            raise UserError(
                f"inner = {list(inner)} is not falling from below 1 to above 0: each is the share of the first coat "
                "that an inner coat keeps, at most 126 of them"
            )
        self.inner, self.signed = [float(share) for share in inner], signed

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        ranked: list[Tensor] = []
        counts: list[list[int]] = []
        all_scores = scores_of(weights)
        for each, scores, kept in zip(weights, all_scores, counts_of(weights), strict=True):
            ranked.append(searched_scores(scores.abs(), each.frozen_edges, score_of_kept=-torch.inf))
            searched = kept - (each.frozen_edges.always if each.frozen_edges else 0)
            counts.append([searched, *(round(share * searched) for share in self.inner)])
        found = []
        for each, scores, multiplier in zip(weights, all_scores, selection.nested_each(ranked, counts), strict=True):
            if self.signed:
                multiplier = torch.where(scores < 0, -multiplier, multiplier)
            if each.frozen_edges:
                multiplier = multiplier.masked_fill(each.frozen_edges.on(multiplier.device) == 1, 1)
            found.append(multiplier)
        return found

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        of_coat = weight * gradient if self.signed else super().score_gradient(gradient, weight, scores)
        return of_coat.mul_(1 + len(self.inner))

    def scores_for_mask(self, mask: Tensor, scores: Tensor) -> Tensor:
        # Scores of one level of the mask lie between those of the levels around it.
        levels, bound = mask.abs(), float(scores.abs().max())
        magnitude = (levels + 0.98 * scores.abs() / bound + 0.01) * bound / (2 + len(self.inner))
        if self.signed:
            return torch.where(mask < 0, -magnitude, torch.where(mask > 0, magnitude, magnitude.copysign(scores)))
        return magnitude.copysign(scores)
