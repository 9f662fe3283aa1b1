"""A small network with a norm and a bias for the tests of importing, and its state, masks and scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """A network for images (3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, kernel_size=3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.bn1(self.conv1(images)).relu().mean((2, 3)))
        return logits


def state() -> dict[str, Tensor]:
    """Return the state of a trained network."""
    network = Small()
    for value in network.state_dict().values():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5, 2)
    return network.state_dict()


def masks() -> dict[str, Tensor]:
    return {"conv1": torch.rand(4, 3, 3, 3) < 0.5, "fc": torch.tensor([[True, False, True, True], [False] * 4])}


def scores() -> dict[str, Tensor]:
    return {"conv1.scores": torch.randn(4, 3, 3, 3), "fc.scores": torch.randn(2, 4, 1, 1)}
