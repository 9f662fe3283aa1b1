"""AlexNet against its tables, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_subnets import UserError
from lightning_subnets.networks import AlexNet

CONVOLUTIONS = 11 * 11 * 3 * 96 + 5 * 5 * 96 * 256 + 9 * (256 * 384 + 384 * 384 + 384 * 256)


@pytest.mark.parametrize(("units", "in_snip"), [(1024, 5.1), (2048, 8.5)])
def test_the_number_of_weights_is_that_of_alexnet_s_and_b_in_snip(units: int, in_snip: float) -> None:
    with torch.device("meta"):
        network = AlexNet(hidden_units=units)
    weights = CONVOLUTIONS + 256 * units + units * units + 10 * units
    assert sum(parameter.numel() for parameter in network.parameters() if parameter.dim() > 1) == weights
    assert round(weights / 1e6, 1) == in_snip
    norms = 2 * (96 + 256 + 384 + 384 + 256 + units + units)
    assert sum(parameter.numel() for parameter in network.parameters()) == weights + norms + 10


@pytest.mark.parametrize("image_size", [16, 32, 64])
def test_every_convolution_halves_the_image_and_the_first_brings_it_to_16_pixels(image_size: int) -> None:
    network, seen = AlexNet(image_size=image_size).to("meta"), []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output.shape[1:])

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(look)
    network(torch.empty(2, 3, image_size, image_size, device="meta"))
    assert seen == [(96, 16, 16), (256, 8, 8), (384, 4, 4), (384, 2, 2), (256, 1, 1)]


def test_batch_norm_and_relu_follow_every_layer_but_the_last_which_alone_has_biases() -> None:
    with torch.device("meta"):
        network = AlexNet()
    layers = [layer for layer in [*network.features, *network.classifier] if not isinstance(layer, nn.Flatten)]
    assert len(layers) == 3 * 7 + 1
    for index in range(0, len(layers) - 1, 3):
        layer, norm, relu = layers[index : index + 3]
        assert isinstance(layer, nn.Conv2d if index < 15 else nn.Linear)
        assert layer.bias is None
        assert isinstance(norm, nn.BatchNorm2d if index < 15 else nn.BatchNorm1d)
        assert isinstance(relu, nn.ReLU)
    assert layers[-1].bias.shape == (10,)


@pytest.mark.parametrize("image_size", [-16, 0, 8, 33, 40])
def test_an_image_that_cannot_be_brought_to_16_pixels_is_an_error_that_names_its_size(image_size: int) -> None:
    with pytest.raises(UserError, match=f"AlexNet brings its image to 16x16: image_size = {image_size} is no multiple"):
        AlexNet(image_size=image_size)


@pytest.mark.parametrize("units", [0, -1])
def test_no_hidden_units_are_an_error(units: int) -> None:
    with pytest.raises(UserError, match=f"hidden_units = {units} is below 1"):
        AlexNet(hidden_units=units)


@pytest.mark.parametrize("layer", range(5))
def test_one_convolution_is_made_wider_and_only_what_it_feeds_changes_with_it(layer: int) -> None:
    channels = [96, 256, 384, 384, 256]
    channels[layer] *= 2
    with torch.device("meta"):
        network = AlexNet(channels=(channels[0], channels[1], channels[2], channels[3], channels[4]))
    convolutions = [each for each in network.features if isinstance(each, nn.Conv2d)]
    assert [each.out_channels for each in convolutions] == channels
    assert [each.in_channels for each in convolutions] == [3, *channels[:-1]]
    assert network.classifier[1].in_features == channels[-1]
    assert network(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


def test_the_width_multiplier_scales_channels_that_are_given_too() -> None:
    with torch.device("meta"):
        network = AlexNet(width_multiplier=0.5, channels=(8, 16, 24, 32, 40))
    widths = [each.out_channels for each in network.features if isinstance(each, nn.Conv2d)]
    assert widths == [4, 8, 12, 16, 20]


def test_a_convolution_without_channels_is_an_error() -> None:
    with pytest.raises(UserError, match=r"channels = \(96, 0, 384, 384, 256\): a convolution has at least 1"):
        AlexNet(channels=(96, 0, 384, 384, 256))
