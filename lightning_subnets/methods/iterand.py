"""IteRand: edge-popup that draws unused weights again during training."""

from __future__ import annotations

import torch
from torch import nn

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.masking import initialization
from lightning_subnets.masking.masked_weight import masked_by
from lightning_subnets.methods.edge_popup import Allocation, EdgePopup

STEP = 128  # images per step of the period


class IteRand(EdgePopup):
    """edge-popup that periodically draws a share of the unused weights again.

    Forward:  w_eff = w * h(s), h = 1 for the layer's k largest s, signed; s starts from U(-b, b), b = sqrt(6 / fan_in).
    Backward: ds = w * dL/dw_eff, straight through h.
    After each K_per steps: w_j is drawn from its distribution again with probability r, if h_j = 0.

    The new weights are a function of the seed, the step and the layer. Ranking by signed scores and their start follow
    the authors' public code, and both differ from ``EdgePopup``. The published runs on CIFAR-10 have learning rate 0.3
    and weight decay 1e-4 for Conv6, and 0.1 and 5e-4 for ResNets; those on ImageNet have 0.1 and 1e-4.

    Args:
        density: fraction of the weights kept, in (0, 1].
        every: K_per, in steps of 128 images, the batch size of the published runs: 300 on CIFAR-10 and 1000 on
            ImageNet.
        share: r, in [0, 1]; 0.1 in the paper.
        allocation: as for ``EdgePopup``.
        absolute: whether to rank by |s| instead, with ds = sign(s) * w * dL/dw_eff.

    Raises:
        ValueError: if an argument is out of range; or, by ``mask_``, if there is no distribution to draw from.
    Source: Chijiwa et al. 2021, "Pruning Randomly Initialized Neural Networks with Iterative Randomization",
        Algorithm 1.
    """

    rerandomizes = True
    spread = 6.0

    def __init__(
        self,
        density: float,
        *,
        every: int = 300,
        share: float = 0.1,
        allocation: Allocation = "uniform",
        absolute: bool = False,
    ) -> None:
        super().__init__(density, allocation=allocation, absolute=absolute)
        if every < 1:
            raise UserError(f"every = {every} is below 1: it is a number of steps of {STEP} images")
        if not 0.0 <= share <= 1.0:
            raise UserError(f"share = {share} is outside [0, 1]: it is the share of unused weights to draw again")
        self.every, self.share = every, share

    @torch.no_grad()
    def after_step_(self, network: nn.Module, step: int, images: int | None) -> None:
        if images is None:
            raise UserError("IteRand counts images: pass the number of images in a step")
        period = self.every * STEP
        if step * images // period == (step - 1) * images // period:
            return
        masks = masking.masks(network)
        for name, masked in masked_by(network, self).items():
            assert masked.origin is not None
            weight, origin = masked.weight, masked.origin
            origin = origin._replace(stream=f"{origin.stream} after step {step}")
            drawn = origin.draw(weight.shape).to(weight)
            chances = initialization.draw_chances(weight.shape, seed=origin.seed, stream=origin.stream)
            chosen = chances.to(weight.device) < self.share
            weight.copy_(torch.where(chosen & ~masks[name], drawn, weight))
