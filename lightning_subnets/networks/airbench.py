"""A small network that learns CIFAR-10 in few epochs."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_subnets.networks.width import scaled


class AirbenchNet(nn.Module):
    """A plain convolutional network for small images, which learns CIFAR-10 in few epochs.

    A 2x2 convolution of 64 channels; three groups of 64, 256 and 256 channels, each of two 3x3 convolutions with a 2x2
    max-pool after the first; a maximum over the pixels and a linear layer. A batch norm and a GELU follow each
    convolution of the groups. The norms have no scales and shifts, and no layer has a bias, so that every parameter is
    a weight. At full width and 32x32 pixels: 1,993,984 weights and 141 million multiply-adds an image.

    Args:
        num_classes: number of outputs; the width does not scale it.
        in_channels: channels of an image.
        width_multiplier: scales every number of channels.
        logit_scale: multiplies the logits. Random constants make them so large that training starts with confident
            mistakes; docs/recipes.md compares three scales.

    Raises:
        ValueError: if the width leaves a layer without channels.
    Source: the shape of Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3.1, without biases,
        with 64 random filters in place of 24 that whiten patches of images, and logits divided by 4 instead of 9.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        width_multiplier: float = 1.0,
        logit_scale: float = 0.25,
    ) -> None:
        super().__init__()
        first, *widths = (scaled(width, width_multiplier, type(self).__name__) for width in (64, 64, 256, 256))
        self.stem = nn.Sequential(nn.Conv2d(in_channels, first, kernel_size=2, bias=False), nn.GELU())
        inputs = (first, *widths)
        self.groups = nn.Sequential(*(_group(*channels) for channels in zip(inputs, widths, strict=False)))
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes, bias=False)
        self.logit_scale = logit_scale

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.groups(self.stem(images))).flatten(1))
        return logits * self.logit_scale


def _group(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, pool in ((inputs, [nn.MaxPool2d(2)]), (outputs, [])):
        layers += [nn.Conv2d(channels, outputs, kernel_size=3, padding=1, bias=False), *pool]
        layers += [nn.BatchNorm2d(outputs, affine=False), nn.GELU()]
    return nn.Sequential(*layers)
