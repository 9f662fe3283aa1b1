"""The memory format of a module's network and images."""

from __future__ import annotations

import torch
from test_module import small_module
from torch import Tensor, nn


def test_images_weights_and_features_are_channels_last_if_that_is_asked_for() -> None:
    seen: list[Tensor] = []
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    module = small_module(network=network, channels_last=True)
    network[0].register_forward_hook(lambda layer, inputs, output: seen.extend([inputs[0], layer.weight, output]))
    module(torch.rand(2, 3, 8, 8))
    assert len(seen) == 3
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in seen)
    assert not any(each.is_contiguous() for each in seen)
