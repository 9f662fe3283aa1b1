"""Supermasks: train the probability that each weight is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking import selection
from lightning_subnets.masking.method import Method, ScoredWeight


class Supermask(Method):
    """A random subnetwork of fixed random weights, drawn in each forward pass from probabilities that are trained.

    Forward:  w_eff = w * b, b ~ Bernoulli(sigmoid(s)), independent for each weight.
    Backward: ds = sigmoid'(s) * w * dL/dw_eff, straight through the draw.

    The scores determine how many weights are kept. ``density``, ``masks`` and ``unmask_`` use the likeliest mask of the
    expected size: the k highest scores of a layer, k = sum sigmoid(s), rounded.

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

    def __init__(self, density: float = 0.5, dynamic_scaling: bool = False, samples: int = 5) -> None:
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
        return torch.full(shape, math.log(self.density / (1 - self.density)))

    def scores_for_mask(self, mask: Tensor, scores: Tensor) -> Tensor:
        # The probabilities are near 1 and 0, and their sum is the number of weights kept.
        density = float(mask.sum() / mask.numel())
        probability = torch.where(mask, 1 - 0.1 * (1 - density), 0.1 * density)
        return probability.logit().clamp(-30, 30)

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        scores = [each.scores.detach() for each in weights if each.scores is not None]
        expected = torch.stack([each.sigmoid().sum(dtype=torch.float64) for each in scores]).round()
        return selection.top_k_each(scores, [int(count) for count in expected.tolist()])

    def masked_weight(self, weight: ScoredWeight) -> Tensor:
        assert weight.scores is not None
        probability = weight.scores.sigmoid()
        if weight.drawn is None:  # every read in one forward pass gets the same mask
            weight.drawn = torch.bernoulli(probability.detach())
        mask: Tensor = _StraightThrough.apply(probability, weight.drawn)
        return self.effective_weight(weight.weight, mask).to(weight.weight.dtype)

    def effective_weight(self, weight: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
        if self.dynamic_scaling:
            mask = mask * (mask.numel() / mask.detach().sum().clamp(min=1))
        return torch.mul(weight, mask, out=out)


class _StraightThrough(torch.autograd.Function):
    """The draw b of 1 with probability p, else 0; its gradient is dL/dp = dL/db, straight through."""

    @staticmethod
    def forward(probability: Tensor, drawn: Tensor) -> Tensor:
        return drawn.view_as(drawn)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
