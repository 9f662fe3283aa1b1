"""IteRand: edge-popup that gives the weights it does not use another chance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from lightning_subnets import initialization, masking
from lightning_subnets.errors import UserError
from lightning_subnets.method import masks
from lightning_subnets.methods.edge_popup import EdgePopup


class IteRand(EdgePopup):
    """edge-popup, and every so many steps a share of the weights that are not selected is drawn again.

    w_j is drawn from its distribution again with probability r, if h_j = 0, after each K_per optimizer steps. Weights
    in use never change, and none is trained. What is drawn is a function of the seed, the step and the layer, so that
    ranks agree; a checkpoint keeps the weights.

    Args:
        density: fraction of the weights kept, in (0, 1].
        every: K_per, in optimizer steps; the paper takes 300 on CIFAR-10 and 1000 on ImageNet.
        share: r, in [0, 1]; the paper's 0.1.
        allocation, absolute: as ``EdgePopup``.

    Raises:
        ValueError: if an argument is out of range; or, by ``mask_``, if there is no distribution to draw from.
    Source: Chijiwa et al. 2021, "Pruning Randomly Initialized Neural Networks with Iterative Randomization",
        Algorithm 1.
    """

    redraws = True

    def __init__(
        self,
        density: float,
        every: int = 300,
        share: float = 0.1,
        allocation: Literal["uniform", "global"] = "uniform",
        absolute: bool = True,
    ) -> None:
        super().__init__(density, allocation, absolute)
        if every < 1:
            raise UserError(f"every = {every} is below 1: it is a number of optimizer steps")
        if not 0.0 <= share <= 1.0:
            raise UserError(f"share = {share} is outside [0, 1]: it is the share of the unused weights drawn again")
        self.every, self.share = every, share

    @torch.no_grad()
    def after_step_(self, network: nn.Module, step: int) -> None:
        if step % self.every:
            return
        layers = [layer for _, layer in masking.masked_layers(network)]
        for layer, mask in zip(layers, masks(layers), strict=True):
            assert layer.origin is not None
            distribution, seed, name = layer.origin
            weight, again = layer.weight, f"{name} after step {step}"
            drawn = initialization.draw_weights(
                distribution, weight.shape, seed=seed, layer=again, density=self.density
            ).to(weight)
            chosen = initialization.draw_chances(weight.shape, seed=seed, layer=again).to(weight.device) < self.share
            weight.copy_(torch.where(chosen & ~mask, drawn, weight))
