"""VGG-16 for images of 32 or 64 pixels."""

from __future__ import annotations

from torch import nn

from lightning_subnets.errors import UserError
from lightning_subnets.networks.width import scaled


class VGG16(nn.Sequential):
    """Thirteen 3x3 convolutions with batch norm and ReLU, in blocks of 64 to 512 channels, and a linear layer.

    A 2x2 max-pool follows each block but the last, whose output is averaged over its pixels. The convolutions have no
    biases, because batch norm cancels them.

    Args:
        num_classes: number of outputs; the width does not scale it.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, a multiple of 16.
        width_multiplier: scales every number of channels.

    Raises:
        ValueError: if the image does not halve evenly, or the width leaves a layer without channels.
    Source: Simonyan and Zisserman 2015, Table 1, configuration D; the average and the linear layer are those of SynFlow
        (Tanaka et al. 2020) on CIFAR, and of GraSP (Wang et al. 2020) on CIFAR and Tiny ImageNet.
    """

    blocks = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions

    def __init__(
        self, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, width_multiplier: float = 1.0
    ) -> None:
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise UserError(f"image_size = {image_size} is not a multiple of 16: VGG16 halves it 4 times")
        layers: list[nn.Module] = []
        channels = in_channels
        for index, (width, convolutions) in enumerate(self.blocks):
            if index:
                layers.append(nn.MaxPool2d(2))
            width = scaled(width, width_multiplier, "VGG16")
            for _ in range(convolutions):
                convolution = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.AvgPool2d(image_size // 16), nn.Flatten(), nn.Linear(channels, num_classes))
