"""Find the network inside a network: masks over random weights, trained with PyTorch Lightning.

import lightning_subnets as ls

net = torchvision.models.resnet18()
ls.mask_(net, ls.EdgePopup(density=0.3), weights="signed_constant", seed=0)
"""

from lightning_subnets.errors import UserError
from lightning_subnets.masking import MaskedConv2d, MaskedLinear, Method, density, mask_, masked_layers, unmask_
from lightning_subnets.methods import Dense, EdgePopup

__version__ = "0.1.0"

__all__ = [
    "Dense",
    "EdgePopup",
    "MaskedConv2d",
    "MaskedLinear",
    "Method",
    "UserError",
    "density",
    "mask_",
    "masked_layers",
    "unmask_",
]
