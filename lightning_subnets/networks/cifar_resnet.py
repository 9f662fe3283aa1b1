"""ResNet-20 and ResNet-32: the residual networks made for CIFAR."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from lightning_subnets.networks.width import scaled


class Shortcut(nn.Module):
    """The identity where a stage begins: every second pixel, and zeros for the channels that are new.

    Option A of He et al. 2016, which has no parameters.
    """

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.pad(input[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new_channels))


class _CifarResNet(nn.Module):
    """A 3x3 convolution of 16 channels, three stages of blocks of 16, 32 and 64 channels, an average over the
    pixels, a linear layer; a block is two 3x3 convolutions beside a shortcut. Batch norm follows every convolution.

    The second and third stage begin with a stride of 2. Shortcuts have no parameters: where a stage begins they take
    every second pixel and zeros for the new channels (option A), as the paper does on CIFAR. Public code that has 1x1
    convolutions there (option B), SynFlow's for instance, has 2,560 weights more. Images may have any size.

    Args:
        num_classes: outputs; the only number that the width leaves alone.
        in_channels: channels of an image.
        width_multiplier: scales every number of channels.

    Raises:
        ValueError: if the width leaves a layer without channels.
    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.
    """

    blocks_per_stage: int

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width_multiplier: float = 1.0) -> None:
        super().__init__()
        first, second, third = (scaled(width, width_multiplier, type(self).__name__) for width in (16, 32, 64))
        self.conv1 = nn.Conv2d(in_channels, first, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(*(BasicBlock(first, first) for _ in range(self.blocks_per_stage)))
        self.layer2 = self._smaller_stage(first, second)
        self.layer3 = self._smaller_stage(second, third)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third, num_classes)

    def _smaller_stage(self, inputs: int, outputs: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride=2, downsample=Shortcut(outputs - inputs))
        return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(self.blocks_per_stage - 1)))

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.fc(self.avgpool(features).flatten(1))
        return logits


class ResNet20(_CifarResNet):
    __doc__ = f"Three blocks a stage: {_CifarResNet.__doc__}"
    blocks_per_stage = 3


class ResNet32(_CifarResNet):
    __doc__ = f"Five blocks a stage: {_CifarResNet.__doc__}"
    blocks_per_stage = 5
