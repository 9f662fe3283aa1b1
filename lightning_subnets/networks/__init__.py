"""Networks of the papers that torchvision lacks; networks of torchvision and timm need no entry here.

Start with ``conv.py``. This room may import ``errors`` and torch, and torchvision inside functions.
"""

from lightning_subnets.networks.airbench import AirbenchNet
from lightning_subnets.networks.alexnet import AlexNet
from lightning_subnets.networks.cifar_resnet import ResNet20, ResNet32
from lightning_subnets.networks.conv import Conv2, Conv4, Conv6, Conv8
from lightning_subnets.networks.folded_resnet import FoldedResNet
from lightning_subnets.networks.mlp import MLP
from lightning_subnets.networks.small_stem import small_stem_resnet
from lightning_subnets.networks.vgg import VGG16

__all__ = [
    "MLP",
    "VGG16",
    "AirbenchNet",
    "AlexNet",
    "Conv2",
    "Conv4",
    "Conv6",
    "Conv8",
    "FoldedResNet",
    "ResNet20",
    "ResNet32",
    "small_stem_resnet",
]
