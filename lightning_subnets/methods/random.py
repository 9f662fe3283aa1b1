"""Random masks: the baseline for every method that chooses a mask before training."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from lightning_subnets.masking import allocation, initialization, selection
from lightning_subnets.masking.allocation import check_allocation, check_density
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit, weights_to_mask

Allocation = Literal["uniform", "erk", "smart_ratio"]


class Random(PruneAtInit):
    """A random mask in each layer, a function of the seed; the weights are then trained.

    Args:
        density: fraction of all weights kept, in (0, 1].
        allocation: ``uniform`` keeps the same fraction of every layer, the first included; ``erk`` keeps more of small
            layers, and ``smart_ratio`` more of the first, see ``allocation.erk`` and ``allocation.smart_ratio``.

    Raises:
        ValueError: if the density is out of range or the allocation is unknown; or, by ``mask_``, if ``smart_ratio``
            would keep more of the last layer than the density keeps in all.
    Source: Evci et al. 2020, "Rigging the Lottery", section 3, for ``erk``; its uniform allocation keeps the first
        layer dense, and ``uniform`` here does not. Su et al. 2020, "Sanity-Checking Pruning Methods", for
        ``smart_ratio``.
    """

    def __init__(self, density: float, *, allocation: Allocation = "uniform") -> None:
        self.density = check_density(density)
        self.allocation = check_allocation(allocation, get_args(Allocation))

    def compute_masks(self, network: nn.Module, data: PruningData) -> dict[str, Tensor]:
        weights = weights_to_mask(network, data)
        shapes = {name: weight.shape for name, weight in weights.items()}
        counts = allocation.BY_SHAPES[self.allocation](shapes, self.density)
        masks = {}
        for name, weight in weights.items():
            chances = initialization.draw_chances(weight.shape, seed=data.seed, stream=initialization.stream_of(name))
            masks[name] = selection.top_k(chances, counts[name]).to(weight.device)
        return masks
