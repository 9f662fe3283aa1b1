"""Conv2, Conv4, Conv6 and Conv8, the small VGG-like networks of the paper's CIFAR-10 experiments."""

from __future__ import annotations

from typing import Literal

from torch import nn

from lightning_subnets.errors import UserError
from lightning_subnets.networks.width import scaled


class _Conv(nn.Sequential):
    """A VGG-like network without biases.

    One to four pairs of 3x3 convolutions, of 64, 128, 256 and 512 channels in this order, a 2x2 max-pool after each
    pair, then fully connected layers of 256, 256 and ``num_classes`` units; ReLU between the layers.

    Args:
        num_classes: number of outputs; the width does not scale it.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels.
        width_multiplier: scales every number of channels and units.
        norm: ``none``, as in the paper, or ``batch``, a batch norm without scales and shifts between each layer and its
            ReLU.

    Raises:
        ValueError: if the image is too small for the pools, or the width leaves a layer without units.
    Source: Ramanujan et al. 2020, Table 1; after Frankle and Carbin 2019.
    """

    pairs: int

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width_multiplier: float = 1.0,
        norm: Literal["none", "batch"] = "none",
    ) -> None:
        super().__init__()
        if norm not in ("none", "batch"):
            raise UserError(f"norm = {norm!r} is neither 'none' nor 'batch'")
        name, smallest = type(self).__name__, 2**self.pairs
        if image_size < smallest:
            raise UserError(f"image_size = {image_size} is below {smallest}, and {name} halves it {self.pairs} times")
        layers: list[nn.Module] = []
        channels = in_channels
        for pair in range(self.pairs):
            width = scaled(64 * 2**pair, width_multiplier, name)
            for inputs in (channels, width):
                layers.append(nn.Conv2d(inputs, width, kernel_size=3, padding=1, bias=False))
                layers += [nn.BatchNorm2d(width, affine=False), nn.ReLU()] if norm == "batch" else [nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = width
        self.features = nn.Sequential(*layers)
        hidden = scaled(256, width_multiplier, name)
        layers = [nn.Flatten()]
        for inputs in (channels * (image_size // smallest) ** 2, hidden):
            layers.append(nn.Linear(inputs, hidden, bias=False))
            layers += [nn.BatchNorm1d(hidden, affine=False), nn.ReLU()] if norm == "batch" else [nn.ReLU()]
        self.classifier = nn.Sequential(*layers, nn.Linear(hidden, num_classes, bias=False))


class Conv2(_Conv):
    __doc__ = f"Two convolutional layers: {_Conv.__doc__}"
    pairs = 1


class Conv4(_Conv):
    __doc__ = f"Four convolutional layers: {_Conv.__doc__}"
    pairs = 2


class Conv6(_Conv):
    __doc__ = f"Six convolutional layers: {_Conv.__doc__}"
    pairs = 3


class Conv8(_Conv):
    __doc__ = f"Eight convolutional layers: {_Conv.__doc__}"
    pairs = 4
