"""ResNet-20 and ResNet-32, the residual networks for CIFAR."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_subnets.networks.width import scaled


class Shortcut(nn.Module):
    """A shortcut without parameters to a smaller stage: every second pixel, and zeros for new channels (option A)."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.pad(input[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new_channels))


class _CifarResNet(nn.Module):
    """A residual network for images of any size.

    A 3x3 convolution of 16 channels, three stages of blocks of 16, 32 and 64 channels, an average over the pixels and a
    linear layer. A block is two 3x3 convolutions beside a shortcut. Batch norm follows every convolution. The second
    and third stage begin with stride 2 and a shortcut without parameters (option A); public code with 1x1 convolutions
    there (option B), for instance SynFlow's, has 2,560 more weights.

    Args:
        num_classes: number of outputs; the width does not scale it.
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
        self.layer1 = self._stage(first, first, stride=1)
        self.layer2 = self._stage(first, second, stride=2)
        self.layer3 = self._stage(second, third, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third, num_classes)

    def _stage(self, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        from torchvision.models.resnet import BasicBlock

        shortcut = Shortcut(outputs - inputs) if stride > 1 else None
        first = BasicBlock(inputs, outputs, stride, shortcut)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(self.blocks_per_stage - 1)))

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.fc(self.avgpool(features).flatten(1))
        return logits


class ResNet20(_CifarResNet):
    __doc__ = f"ResNet-20, three blocks a stage: {_CifarResNet.__doc__}"
    blocks_per_stage = 3


class ResNet32(_CifarResNet):
    __doc__ = f"ResNet-32, five blocks a stage: {_CifarResNet.__doc__}"
    blocks_per_stage = 5
