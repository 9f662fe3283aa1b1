"""The multilayer perceptron, and its spare outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_subnets import EdgePopup, UserError, density, mask_
from lightning_subnets.networks import MLP


def test_images_become_logits_under_masks() -> None:
    network = mask_(MLP(num_classes=7, in_channels=1, image_size=8, depth=3), EdgePopup(0.5))
    assert density(network) == pytest.approx(0.5, abs=1e-3)
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 7)
    assert [name for name, _ in network.named_buffers()] == []


def test_the_width_multiplier_scales_hidden_layers_alone() -> None:
    shapes = [tuple(weight.shape) for weight in MLP(width_multiplier=0.125, spare_outputs=5).parameters()]
    assert shapes == [(32, 3072), (32, 32), (15, 32)]


def test_the_mean_of_the_pixels_and_their_contrast_are_no_inputs() -> None:
    network, images = MLP(in_channels=1, image_size=8), torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(network(3 * images + 5), network(images), rtol=1e-3, atol=1e-4)


def test_spare_outputs_come_after_the_classes_and_start_lower_by_1() -> None:
    network = MLP(num_classes=3, in_channels=1, image_size=8, spare_outputs=2)
    for weight in network.parameters():
        nn.init.zeros_(weight)
    assert network(torch.randn(1, 1, 8, 8)).tolist() == [[0, 0, 0, -1, -1]]


def test_numbers_out_of_range_are_errors() -> None:
    for options in ({"depth": -1}, {"spare_outputs": -1}):
        with pytest.raises(UserError, match="both are 0 or more"):
            MLP(**options)
    with pytest.raises(UserError, match="leaves MLP without channels"):
        MLP(width_multiplier=0)
