"""Gem-Miner: scores that are rounded to a mask, and edges that are dropped for good, round by round."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import allocation, initialization, selection
from lightning_subnets.masking.allocation import check_density
from lightning_subnets.masking.masked_weight import masked_by, scores_of
from lightning_subnets.masking.method import Method, ScoredWeight

DROPPED = -1.0  # the score of an edge that is dropped for good; all others are in [0, 1]


class GemMiner(Method):
    """A subnetwork of random weights by rounded scores, with edges that are dropped for good.

    Forward:  w_eff = w * q * 1[s > 1/2], with s in [0, 1] and a flag q in {0, 1} for each edge, at first 1.
    Backward: ds = q * w * dL/dw_eff, straight through the rounding; after a step, s is clamped to [0, 1].
    After each ``every`` optimizer steps: of the edges of all layers with q = 1, the share r with the lowest scores gets
              q = 0, at least one edge, until a fraction ``density`` of all edges has q = 1.

    The scores determine how many of these edges are kept, so the density that a run reports is lower. The paper has a
    weight decay of 1e-4 on the scores, an option of the optimizer. To train the weights of the subnetwork afterwards,
    give its run to ``FixedMask``. A checkpoint holds the scores, and so the dropped edges. A ``.subnet`` file holds the
    mask alone: after ``load_subnet(masked=True)`` every edge outside it has q = 1 again, and a score below 1/2. Scores
    cannot be averaged over steps, because the flag q = 0 is a score of -1: a mean would bring dropped edges back.

    Args:
        density: fraction of the edges with q = 1 at the end, in (0, 1].
        every: optimizer steps between two rounds.
        share: r, in (0, 1).

    Raises:
        ValueError: if an argument is out of range.
    Source: Sreenivasan et al. 2022, "Rare Gems: Finding Lottery Tickets at Initialization".
    """

    trainable = "scores"
    flags_in_scores = True

    def __init__(self, density: float, *, every: int = 500, share: float = 0.2) -> None:
        self.density = check_density(density)
        if every < 1:
            raise UserError(f"every = {every} is below 1: it is a number of optimizer steps")
        if not 0.0 < share < 1.0:
            raise UserError(f"share = {share} is outside (0, 1): it is the share of the edges that a round drops")
        self.every, self.share = every, share

    def too_short(self, steps: float) -> str | None:
        # Less 1e-9, because 0.9^3 is not quite 0.729. Rounding to whole edges may need a few rounds more.
        rounds = math.ceil(math.log(self.density) / math.log1p(-self.share) - 1e-9)
        if steps >= rounds * self.every:
            return None
        every = f"take every = {int(steps) // rounds} or less, or " if steps >= rounds else ""
        return (
            f"GemMiner reaches density = {self.density} in about {rounds} rounds, one every {self.every} steps, and "
            f"this run has {int(steps)} steps: {every}train longer"
        )

    def num_kept(self, total: int) -> None:
        return None

    def initial_scores(self, shape: torch.Size, *, seed: int, stream: str) -> Tensor:
        return initialization.draw_chances(shape, seed=seed, stream=f"{stream} scores")

    def scores_for_mask(self, mask: Tensor, scores: Tensor) -> Tensor:
        return torch.where(mask, 0.5 + scores.clamp(min=1e-3) / 2, scores * 0.499)

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        scores = scores_of(weights)
        for each in scores:
            selection.check_numbers(each)
        return [each > 0.5 for each in scores]

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        return (weight * gradient).masked_fill_(scores < 0, 0)

    @torch.no_grad()
    def after_step_(self, network: nn.Module, step: int, images: int | None) -> None:
        ours = masked_by(network, self).items()
        scores = {name: each.scores for name, each in ours if each.scores is not None}
        for each in scores.values():
            # This changes no mask, so ``data``, which leaves no trace, spares a second computation of all w * m.
            # An optimizer's momentum also moves the scores of dropped edges, by far less than half.
            dropped = each < DROPPED / 2
            each.data.clamp_(0, 1).masked_fill_(dropped, DROPPED)
        if step % self.every:
            return
        left = sum(int((each >= 0).sum()) for each in scores.values())
        wanted = allocation.num_kept(sum(each.numel() for each in scores.values()), self.density)
        kept = selection.top_k_together(scores, max(min(left, wanted), left - max(1, int(self.share * left))))
        for name, each in scores.items():
            each.masked_fill_(~kept[name], DROPPED)
