"""Random masks: the baseline every choice is held against."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lightning_subnets.masking import allocation, initialization, maskable, selection
from lightning_subnets.masking.allocation import check_allocation, check_density
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit


class Random(PruneAtInit):
    """Each layer keeps weights at random, a function of the seed; then they are trained.

    Args:
        density: fraction of all weights kept, in (0, 1].
        allocation: ``uniform``, the same density in every layer, also in the first; ``erk``, higher densities in small
            layers, see ``allocation.erk``.

    Raises:
        ValueError: if the density is out of range.
    Source: Evci et al. 2020, "Rigging the Lottery", section 3, for ``erk``. The paper's own uniform allocation keeps
        the first layer dense, and ``uniform`` here does not.
    """

    def __init__(self, density: float, allocation: Literal["uniform", "erk"] = "uniform") -> None:
        self.density = check_density(density)
        self.allocation = check_allocation(allocation, ("uniform", "erk"))

    def compute_masks(self, network: nn.Module, scoring: PruningData) -> dict[str, Tensor]:
        weights = {name: layer.weight for name, layer in maskable.maskable_layers(network).items()}
        if self.allocation == "erk":
            counts = allocation.erk({name: weight.shape for name, weight in weights.items()}, self.density)
        else:
            counts = allocation.uniform({name: weight.numel() for name, weight in weights.items()}, self.density)
        return {
            name: selection.top_k(
                initialization.draw_chances(weight.shape, seed=scoring.seed, layer=name), counts[name]
            ).to(weight.device)
            for name, weight in weights.items()
        }
