"""Supermasks: train the probability of every weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking import selection
from lightning_subnets.masking.method import Method, ScoredLayer


class Supermask(Method):
    """A subnetwork of fixed random weights drawn anew in each forward pass, whose probabilities are trained.

    Forward:  w_eff = w * b, b ~ Bernoulli(sigmoid(s)), of each weight by itself.
    Backward: ds = sigmoid'(s) * w * dL/dw_eff, straight through the draw.

    How many weights are kept follows from the scores. An evaluation draws masks too and is the mean of several passes;
    each rank draws its own, as it has its own images. ``density`` and ``mask`` are of the k weights of the highest
    scores, k the expected number kept, sum sigmoid(s), rounded: the likeliest mask of that size. It is what
    ``unmask_`` folds into the weights.

    Args:
        density: the expected density to begin with, in (0, 1): all scores start at log(d / (1 - d)), which is 0 for
            the paper's 0.5.
        dynamic_scaling: multiply the weights of a layer by n / ones, ones the number of its n that are drawn.
        samples: passes that an evaluation is the mean of.

    Raises:
        ValueError: if an argument is out of range.
    Source: Zhou et al. 2019, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask", section 5.
    """

    trainable = "scores"
    cacheable = False

    def __init__(self, density: float = 0.5, dynamic_scaling: bool = False, samples: int = 5) -> None:
        if not 0.0 < density < 1.0:
            raise UserError(f"density = {density} is outside (0, 1): it is the probability of a weight to begin with")
        if samples < 1:
            raise UserError(f"samples = {samples} is below 1")
        self.density, self.dynamic_scaling, self.samples = density, dynamic_scaling, samples

    @property
    def num_eval_passes(self) -> int:
        return self.samples

    def num_kept(self, total: int) -> None:
        return None

    def initial_scores(self, shape: torch.Size, *, seed: int, layer: str) -> Tensor:
        return torch.full(shape, math.log(self.density / (1 - self.density)))

    def scores_for_mask(self, mask: Tensor, scores: Tensor) -> Tensor:
        # Probabilities near 1 and 0 whose sum is the number that is kept.
        density = float(mask.sum() / mask.numel())
        sure = torch.where(mask, 1 - 0.1 * (1 - density), 0.1 * density)
        return sure.logit().clamp(-30, 30)

    def masks(self, layers: Sequence[ScoredLayer]) -> list[Tensor]:
        scores = [layer.scores.detach() for layer in layers if layer.scores is not None]
        expected = torch.stack([each.sigmoid().sum(dtype=torch.float64) for each in scores]).round()
        return selection.top_k_each(scores, [int(count) for count in expected.tolist()])

    def masked_weight(self, layer: ScoredLayer) -> Tensor:
        assert layer.scores is not None
        drawn: Tensor = _Bernoulli.apply(layer.scores.sigmoid())
        return self.effective_weight(layer.weight, drawn).to(layer.weight.dtype)

    def effective_weight(self, weight: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
        if self.dynamic_scaling:
            mask = mask * (mask.numel() / mask.detach().sum().clamp(min=1))
        return torch.mul(weight, mask, out=out)


class _Bernoulli(torch.autograd.Function):
    """Forward: 1 with probability p, else 0. Backward: dL/dp = dL/db, straight through."""

    @staticmethod
    def forward(ctx: Any, probability: Tensor) -> Tensor:
        return torch.bernoulli(probability)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
