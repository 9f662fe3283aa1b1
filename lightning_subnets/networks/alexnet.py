"""AlexNet for images of 32 or 64 pixels."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.networks.width import scaled


class AlexNet(nn.Module):
    """Five convolutions and three linear layers; batch norm and ReLU after each but the last.

    The convolutions are AlexNet's: 96 channels of 11x11, 256 of 5x5, 384, 384 and 256 of 3x3, all in one group. Each
    halves the image by its stride, where AlexNet has pools; the first takes an image of any size to 16x16, by a
    stride of 2 for 32 pixels and of 4 for 64. The last leaves 1x1, which goes through two linear layers of
    ``hidden_units`` and one of ``num_classes``.

    Args:
        num_classes: outputs; the only number that the width leaves alone.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, a multiple of 16.
        width_multiplier: scales every number of channels and units.
        hidden_units: 1024 is the AlexNet-s of SNIP, 2048 its AlexNet-b.
        channels: of each convolution, so that one of them can be made wider than the rest.

    Raises:
        ValueError: if the first convolution cannot bring the image to 16x16, or a layer is left without units.
    Source: channels and kernels of Krizhevsky et al. 2012, section 3.5; strides, norms, linear layers and no dropout
        of Lee et al. 2019 (SNIP), Table 2, and their public code. Ours: an odd pixel of padding is before the image
        and not behind it, and only the last layer has biases, for batch norm takes the others out again.
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
            raise UserError(f"AlexNet brings its image to 16x16: image_size = {image_size} is no multiple of 16")
        if hidden_units < 1:
            raise UserError(f"hidden_units = {hidden_units} is below 1")
        if min(channels) < 1:
            raise UserError(f"channels = {channels}: a convolution has at least 1")
        layers: list[nn.Module] = []
        inputs = in_channels
        kernels_and_strides = ((11, image_size // 16), (5, 2), (3, 2), (3, 2), (3, 2))
        for count, (kernel, stride) in zip(channels, kernels_and_strides, strict=True):
            width = scaled(count, width_multiplier, "AlexNet")
            layers += [
                nn.Conv2d(inputs, width, kernel, stride, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            inputs = width
        self.features = nn.Sequential(*layers)
        hidden = scaled(hidden_units, width_multiplier, "AlexNet")
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits
