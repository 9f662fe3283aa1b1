"""Supermasks: train the probability that each weight is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking import selection
from lightning_subnets.masking.masked_weight import scores_of
from lightning_subnets.masking.method import Method, ScoredWeight


class Supermask(Method):
    """A random subnetwork of fixed random weights, drawn in each forward pass from probabilities that are trained.

    Forward:  w_eff = w * b, b ~ Bernoulli(sigmoid(s)), independent for each weight.
    Backward: ds = sigmoid'(s) * w * dL/dw_eff, straight through the draw.

    The scores determine how many weights are kept. ``density``, ``masks`` and ``unmask_`` use the likeliest mask of the
    expected size: the k highest scores of a layer, k = sum sigmoid(s), rounded.

    With activation checkpointing, run one forward pass for each backward pass: the backward pass computes again with
    the last draw.

    Args:
        density: d, the expected density at the start, in (0, 1): all scores start at log(d / (1 - d)).
        dynamic_scaling: whether to multiply the n weights of a layer by n / (the number drawn).
        samples: number of passes, each with its own masks, that an evaluation averages.

    Raises:
        ValueError: if an argument is out of range.
    Source: Zhou et al. 2019, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask", section 5.
    """

    trainable = "scores"
    cacheable = False
    draws_masks = True

    def __init__(self, density: float = 0.5, *, dynamic_scaling: bool = False, samples: int = 5) -> None:
        if not 0.0 < density < 1.0:
            raise UserError(f"density = {density} is outside (0, 1): it is the probability that a weight is kept")
        if samples < 1:
            raise UserError(f"samples = {samples} is below 1: it is the number of passes that an evaluation averages")
        self.density, self.dynamic_scaling, self.samples = density, dynamic_scaling, samples

    @property
    def num_eval_passes(self) -> int:
        return self.samples

    def num_kept(self, total: int) -> None:
        return None

    def initial_scores(self, shape: torch.Size, *, seed: int, stream: str) -> Tensor:
        return torch.full(shape, math.log(self.density / (1 - self.density)), dtype=torch.float32, device="cpu")

    def scores_for_mask(self, mask: Tensor, scores: Tensor) -> Tensor:
        # The probabilities are near 1 and 0, and their sum is the number of weights kept.
        kept = int(mask.sum())
        density = kept / mask.numel()
        step = {True: 0.1 * (1 - density), False: 0.1 * density}  # the distance to 1 of those kept, to 0 of the others
        found = torch.where(mask, 1 - step[True], step[False]).logit().clamp(-30, 30)
        missing = kept - float(_expected(found))
        if abs(missing) > 0.25:  # rounding in millions of float32 numbers: move a few of them to 1 or to 0
            more = missing > 0
            few = (mask == more).flatten().nonzero()[: round(abs(missing) / step[more])]
            found.view(-1)[few] = 30.0 if more else -30.0
        return found

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        scores = scores_of(weights)
        for each in scores:
            selection.check_numbers(each)
        expected = torch.stack([_expected(each) for each in scores]).round()
        return selection.top_k_each(scores, [int(count) for count in expected.tolist()])

    def uncached_weight(self, weight: ScoredWeight) -> Tensor:
        assert weight.scores is not None
        probability = weight.scores.sigmoid()
        if weight.drawn is None:  # every read in one forward pass gets the same mask
            selection.check_numbers(weight.scores.detach())
            weight.drawn = torch.bernoulli(probability.detach())
        mask = weight.drawn + (probability - probability.detach())  # the draw, with the gradient of the probability
        return self.effective_weight(weight.weight, mask).to(weight.weight.dtype)

    def effective_weight(self, weight: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
        if self.dynamic_scaling:
            drawn = mask.detach().sum(dtype=torch.promote_types(weight.dtype, torch.float32)).clamp(min=1)
            mask = (mask * (mask.numel() / drawn)).to(weight.dtype)
        return torch.mul(weight, mask, out=out)


def _expected(scores: Tensor) -> Tensor:
    """Return the expected number of weights kept, float64."""
    return scores.sigmoid().sum(dtype=torch.float64)
