"""torchvision's ResNets for images of 32 or 64 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from lightning_subnets.errors import unknown

if TYPE_CHECKING:
    from torchvision.models import ResNet

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2",
           "wide_resnet101_2")  # fmt: skip


def small_stem_(network: ResNet) -> ResNet:
    """Replace the stem of a ResNet, in place, with a 3x3 convolution of stride 1, and return the network.

    So an image of 32 pixels reaches the first block with 32 pixels instead of 8.

    Source: He et al. 2016, section 4.2.
    """
    inputs, outputs = network.conv1.in_channels, network.conv1.out_channels
    network.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def small_stem_resnet(name: str = "resnet18", num_classes: int = 10) -> ResNet:
    """Return a torchvision ResNet with a stem for small images, by default ResNet-18 for CIFAR-10.

    A config for Tiny ImageNet has
    ``model.network: {class_path: lightning_subnets.networks.small_stem_resnet, init_args: {num_classes: 200}}``.

    Args:
        name: of a ResNet in ``torchvision.models``.
        num_classes: number of outputs.

    Raises:
        ValueError: if torchvision has no such ResNet.
    """
    from torchvision.models import get_model

    if name not in RESNETS:
        raise unknown("ResNet", name, RESNETS)
    return small_stem_(get_model(name, num_classes=num_classes))
