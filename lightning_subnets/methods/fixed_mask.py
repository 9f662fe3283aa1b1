"""A mask that exists already, for instance another run's, unchanged or shuffled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import initialization, selection
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit


class FixedMask(PruneAtInit):
    """A mask that exists already; the weights are trained under it.

    With the seed and the distribution of the mask's run, the weights are those that the mask was found on, with two
    exceptions. A scaled distribution lacks the run's factor sqrt(1 / density), because it draws for density 1 here. And
    a method that drew weights again, as ``IteRand``, found its mask on those. Of a mask that flips or multiplies
    weights, as that of ``Multicoated``, only which weights it keeps is used.

    Args:
        masks: the mask of each layer by its name, for instance ``ls.read_masks("run.ckpt", network)``; in a config the
            path of a checkpoint or a ``.subnet`` file.
        shuffle: whether to move the kept weights to random places of their layer, drawn from the seed.

    Raises:
        ValueError: when the masks are installed, if they are not boolean or belong to another network, or ``masks`` is
            a path and the network is masked by ``mask_``.
    Source: Frankle et al. 2021, "Pruning Neural Networks at Initialization", section 5, and Su et al. 2020,
        "Sanity-Checking Pruning Methods", section 3, on shuffled masks and redrawn weights.
    """

    def __init__(self, masks: str | Path | Mapping[str, Any], *, shuffle: bool = False) -> None:
        self.masks_given, self.shuffle = masks, shuffle

    def identity(self) -> dict[str, Any]:
        # Leave out the path of the masks, because the file may be gone when a run resumes.
        return {"shuffle": self.shuffle}

    def compute_masks(self, network: nn.Module, data: PruningData) -> dict[str, Tensor]:
        given = self.masks_given
        if isinstance(given, str | Path):
            given = str(given)
            if data.read_masks is None:
                raise UserError(
                    f"masks={given!r} is a path, and mask_ reads no file: "
                    f"pass ls.FixedMask(ls.read_masks({given!r}, network))"
                )
            given = data.read_masks(given, network)
        return shuffled(given, data.seed) if self.shuffle else dict(given)


def shuffled(masks: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return masks that keep as many numbers of each weight, at uniformly random places, or multiply as many."""
    moved = {}
    for name, mask in masks.items():
        stream = f"{initialization.stream_of(name)} shuffled"
        chances = initialization.draw_chances(mask.shape, seed=seed, stream=stream)
        if mask.dtype == torch.bool:
            moved[name] = selection.top_k(chances, int(mask.count_nonzero())).to(mask.device)
        else:
            moved[name] = mask.flatten()[chances.flatten().argsort(stable=True).to(mask.device)].view_as(mask)
    return moved
