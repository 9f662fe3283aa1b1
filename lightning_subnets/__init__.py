"""Find the network inside a network: masks over random weights, trained with PyTorch Lightning.

import lightning_subnets as ls

net = torchvision.models.resnet18()
ls.mask_(net, ls.EdgePopup(density=0.3), weights="signed_constant", seed=0)
"""

from lightning_subnets.errors import UserError
from lightning_subnets.masking import MaskedConv2d, MaskedLinear, density, mask_, masked_layers, unmask_
from lightning_subnets.masking.method import Method
from lightning_subnets.methods import (
    DNW,
    PHEW,
    SNIP,
    Biprop,
    Dense,
    EdgePopup,
    Given,
    GraSP,
    IteRand,
    LinearProbe,
    Magnitude,
    Random,
    Supermask,
    SynFlow,
    SynFlowL2,
)
from lightning_subnets.subnet_file import load_subnet, save_subnet

__version__ = "0.1.0"

__all__ = [
    "DNW",
    "PHEW",
    "SNIP",
    "Biprop",
    "Dense",
    "EdgePopup",
    "Given",
    "GraSP",
    "IteRand",
    "LinearProbe",
    "Magnitude",
    "MaskedConv2d",
    "MaskedLinear",
    "Method",
    "Random",
    "Supermask",
    "SynFlow",
    "SynFlowL2",
    "UserError",
    "density",
    "load_subnet",
    "mask_",
    "masked_layers",
    "save_subnet",
    "unmask_",
]
