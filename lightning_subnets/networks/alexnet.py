"""AlexNet for images of 32 or 64 pixels."""

from __future__ import annotations

from torch import nn

from lightning_subnets.errors import UserError
from lightning_subnets.networks.width import scaled


class AlexNet(nn.Sequential):
    """Five convolutions and three linear layers; batch norm and ReLU follow each but the last.

    The convolutions are AlexNet's: 96 channels of 11x11, 256 of 5x5, 384, 384 and 256 of 3x3, in one group. The first
    brings the image to 16x16 by its stride, and each of the others halves it. Two linear layers of ``hidden_units`` and
    one of ``num_classes`` follow.

    Args:
        num_classes: number of outputs; the width does not scale it.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, a multiple of 16.
        width_multiplier: scales every number of channels and units.
        hidden_units: 1024 for the AlexNet-s of SNIP, 2048 for its AlexNet-b.
        channels: of each convolution.

    Raises:
        ValueError: if the first convolution cannot bring the image to 16x16, or a layer has no units.
    Source: Krizhevsky et al. 2012, section 3.5, for channels and kernels; Lee et al. 2019 (SNIP), Table 2, and their
        public code for strides, norms and linear layers. Different here: an odd pixel of padding lies before the
        image, and only the last layer has a bias, because batch norm cancels the others.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width_multiplier: float = 1.0,
        hidden_units: int = 1024,
        channels: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256),
    ) -> None:
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise UserError(
                f"image_size = {image_size} is not a multiple of 16: AlexNet's first stride is image_size / 16"
            )
        if hidden_units < 1 or min(channels) < 1:
            raise UserError(f"hidden_units = {hidden_units} and channels = {channels} must be at least 1")
        layers: list[nn.Module] = []
        inputs = in_channels
        kernels_and_strides = ((11, image_size // 16), (5, 2), (3, 2), (3, 2), (3, 2))
        for count, (kernel, stride) in zip(channels, kernels_and_strides, strict=True):
            width = scaled(count, width_multiplier, "AlexNet")
            convolution = nn.Conv2d(inputs, width, kernel, stride, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        self.features = nn.Sequential(*layers)
        layers = [nn.Flatten()]
        hidden = scaled(hidden_units, width_multiplier, "AlexNet")
        for units in (inputs, hidden):
            layers += [nn.Linear(units, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        self.classifier = nn.Sequential(*layers, nn.Linear(hidden, num_classes))
