"""Find the network inside a network: masks over random weights, trained with PyTorch Lightning.

Example::

    import torchvision

    import lightning_subnets as ls

    net = torchvision.models.resnet18()
    ls.mask_(net, ls.EdgePopup(density=0.3), weights="signed_constant", seed=0)

Each name of ``__all__`` is imported when it is first used. So the library needs no Lightning, and the commands print
their help without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_subnets._version import __version__
from lightning_subnets.errors import UserError

if TYPE_CHECKING:
    from lightning_subnets import datamodules as datamodules
    from lightning_subnets import methods as methods
    from lightning_subnets import networks as networks
    from lightning_subnets.continual import SupSup
    from lightning_subnets.graph.diagnostics import diagnose
    from lightning_subnets.masking import (
        MaskedWeight,
        density,
        invalidate_,
        mask_,
        masked_weights,
        masks,
        raw_weight,
        unmask_,
    )
    from lightning_subnets.masking.initialization import draw_scores
    from lightning_subnets.masking.method import Method, PruningData, ScoredWeight
    from lightning_subnets.masking.prune_at_init import PruneAtInit, weights_to_mask
    from lightning_subnets.masking.selection import top_k
    from lightning_subnets.methods import (
        DNW,
        PHEW,
        SNIP,
        Biprop,
        Dense,
        EdgePopup,
        FixedMask,
        GemMiner,
        GraSP,
        IteRand,
        LinearProbe,
        Magnitude,
        Multicoated,
        PartiallyFrozen,
        Random,
        SignedSupermask,
        Supermask,
        SynFlow,
        SynFlowL2,
    )
    from lightning_subnets.subnet_file import load_subnet, save_subnet
    from lightning_subnets.training.module import SubnetModule
    from lightning_subnets.training.run_masks import read_masks

__all__ = [
    "DNW",
    "PHEW",
    "SNIP",
    "Biprop",
    "Dense",
    "EdgePopup",
    "FixedMask",
    "GemMiner",
    "GraSP",
    "IteRand",
    "LinearProbe",
    "Magnitude",
    "MaskedWeight",
    "Method",
    "Multicoated",
    "PartiallyFrozen",
    "PruneAtInit",
    "PruningData",
    "Random",
    "ScoredWeight",
    "SignedSupermask",
    "SubnetModule",
    "SupSup",
    "Supermask",
    "SynFlow",
    "SynFlowL2",
    "UserError",
    "__version__",
    "density",
    "diagnose",
    "draw_scores",
    "invalidate_",
    "load_subnet",
    "mask_",
    "masked_weights",
    "masks",
    "raw_weight",
    "read_masks",
    "save_subnet",
    "top_k",
    "unmask_",
    "weights_to_mask",
]

# The modules that __getattr__ searches for a name, in this order: Lightning is needed from training on.
_MODULES = (
    "masking",
    "masking.method",
    "masking.initialization",
    "masking.selection",
    "masking.prune_at_init",
    "methods",
    "subnet_file",
    "continual",
    "graph.diagnostics",
    "training.run_masks",
    "training.module",
)

# Rooms that are attributes too.
_ROOMS = ("datamodules", "methods", "networks")

if not TYPE_CHECKING:  # a type checker would take every misspelt name for an Any

    def __getattr__(name: str) -> Any:
        """Import a public name, see PEP 562."""
        if name in _ROOMS:
            return import_module(f"{__name__}.{name}")
        for path in _MODULES if name in __all__ else ():
            module = import_module(f"{__name__}.{path}")
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
