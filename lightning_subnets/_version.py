"""Which code a run is made by."""

from __future__ import annotations

import lightning
import torch
import torchvision

import lightning_subnets


def versions() -> dict[str, str]:
    """The versions of this package and of those that a run's numbers depend on."""
    return {
        "lightning_subnets": lightning_subnets.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
    }
