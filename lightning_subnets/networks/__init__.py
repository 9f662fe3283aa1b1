"""Networks of the paper that torchvision does not have; every torchvision and timm network works as it is."""

from lightning_subnets.networks.conv import Conv2, Conv4, Conv6, Conv8
from lightning_subnets.networks.small_stem import small_stem_resnet

__all__ = ["Conv2", "Conv4", "Conv6", "Conv8", "small_stem_resnet"]
