"""A partially frozen network: edge-popup that searches only some of the edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking import selection
from lightning_subnets.masking.frozen_edges import check_frozen, searched_scores
from lightning_subnets.masking.masked_weight import counts_of, scores_of
from lightning_subnets.masking.method import ScoredWeight
from lightning_subnets.methods.edge_popup import Allocation, EdgePopup


class PartiallyFrozen(EdgePopup):
    """edge-popup with some edges that the seed alone keeps or drops, so that only the others are searched.

    Forward:  w_eff = w * m. Of a weight's n numbers, int(f d n) random ones have m = 1, int(f (1 - d) n) have m = 0,
              and the others are searched: the largest |s| have m = 1, so that k have it in all, as in ``EdgePopup``.
    Backward: ds = sign(s) * w * dL/dw_eff, straight through m, for searched edges; 0 for the others.

    A ``.subnet`` file stores the searched edges alone, so its masks are smaller by the factor 1 - f. The paper chooses
    both shares of frozen edges freely; here they follow from d, so that the searched edges have the density d too.

    Args:
        density: d, the fraction of the weights kept, in (0, 1].
        frozen: f, the share of the edges that are not searched, in [0, 1).
        allocation: as for ``EdgePopup``, but not ``global``.

    Raises:
        ValueError: if an argument is out of range.
    Source: Otsuka et al. 2025, "Partially Frozen Random Networks Contain Compact Strong Lottery Tickets".
    """

    def __init__(self, density: float, *, frozen: float = 0.7, allocation: Allocation = "uniform") -> None:
        super().__init__(density, allocation=allocation)
        if allocation == "global":
            raise UserError("allocation = 'global' does not fix how much of each layer is kept: take uniform or erk")
        self.frozen = check_frozen(frozen)

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "absolute"}

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        pairs = zip(weights, scores_of(weights), strict=True)
        ranked = [searched_scores(scores.abs(), each.frozen_edges) for each, scores in pairs]
        return selection.top_k_each(ranked, counts_of(weights))
