"""Magnitude pruning at initialisation: keep the largest weights."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from lightning_subnets.masking import allocation, selection
from lightning_subnets.masking.allocation import check_allocation, check_density
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit, weights_to_mask

Allocation = Literal["global", "uniform"]


class Magnitude(PruneAtInit):
    """The weights with the largest |w| as drawn; they are then trained.

    At density 1 it keeps all of them; ``IterativePruning`` starts from there to find lottery tickets.

    Args:
        density: fraction of the weights kept, in (0, 1].
        allocation: ``global`` ranks all layers together, which may empty layers with small weights; ``uniform`` ranks
            within each layer.

    Raises:
        ValueError: if the density is out of range or the allocation is unknown.
    Source: Han et al. 2015, "Learning both Weights and Connections"; at initialisation the baseline of Frankle et al.
        2021, "Pruning Neural Networks at Initialization", section 3.
    """

    ranks_by_magnitude = True

    def __init__(self, density: float = 1.0, *, allocation: Allocation = "global") -> None:
        self.density = check_density(density)
        self.allocation = check_allocation(allocation, get_args(Allocation))

    def compute_masks(self, network: nn.Module, data: PruningData) -> dict[str, Tensor]:
        magnitudes = {name: each.detach().abs() for name, each in weights_to_mask(network, data).items()}
        if self.allocation == "global":
            total = sum(each.numel() for each in magnitudes.values())
            return selection.top_k_together(magnitudes, allocation.num_kept(total, self.density))
        counts = allocation.uniform({name: each.shape for name, each in magnitudes.items()}, self.density)
        masks = selection.top_k_each(list(magnitudes.values()), list(counts.values()))
        return dict(zip(magnitudes, masks, strict=True))
