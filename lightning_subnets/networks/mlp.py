"""A multilayer perceptron, also for many tasks over the weights of one seed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.networks.width import scaled


class MLP(nn.Sequential):
    """A multilayer perceptron without biases: hidden layers of 256 units with tanh, and a linear layer.

    A layer norm without scales and shifts centres each image first, so that the mean of its pixels is not an input.

    ``spare_outputs`` help ``SupSup`` to tell tasks apart by the entropy. No label names them, so each task learns to
    lower them, and only on its own images. Their logits start lower by 1: then the mixture of many tasks favours the
    classes, and its entropy falls whenever the spare outputs fall. Without this its logits are nearly equal, and the
    gradient of the entropy has a random sign.

    Args:
        num_classes: number of classes; the width does not scale it.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels.
        width_multiplier: scales the units of the hidden layers.
        depth: number of hidden layers.
        spare_outputs: number of outputs that no label names, after those of the classes.

    Raises:
        ValueError: if the width leaves a layer without units, or a number is out of range.
    Source: the multilayer perceptrons of Wortsman et al. 2020, "Supermasks in Superposition", which have spare outputs
        too. Tanh, the centred images and the lower logits are of this package.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width_multiplier: float = 1.0,
        depth: int = 2,
        spare_outputs: int = 0,
    ) -> None:
        super().__init__()
        if depth < 0 or spare_outputs < 0:
            raise UserError(f"depth = {depth} and spare_outputs = {spare_outputs}: both are 0 or more")
        self.num_classes, self.spare_outputs = num_classes, spare_outputs
        inputs = in_channels * image_size**2
        self.append(nn.Flatten()).append(nn.LayerNorm(inputs, elementwise_affine=False))
        for _ in range(depth):
            width = scaled(256, width_multiplier, type(self).__name__)
            self.append(nn.Linear(inputs, width, bias=False)).append(nn.Tanh())
            inputs = width
        self.append(nn.Linear(inputs, num_classes + spare_outputs, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        if not self.spare_outputs:
            return logits
        return torch.cat([logits[:, : self.num_classes], logits[:, self.num_classes :] - 1], dim=1)
