"""VGG-16 against configuration D, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_subnets import UserError
from lightning_subnets.networks import VGG16

BLOCK_1 = 9 * (3 * 64 + 64 * 64)
BLOCK_2 = 9 * (64 * 128 + 128 * 128)
BLOCK_3 = 9 * (128 * 256 + 2 * 256 * 256)
BLOCK_4 = 9 * (256 * 512 + 2 * 512 * 512)
BLOCK_5 = 9 * 3 * 512 * 512
NORMS = 2 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512)
# Channels, and pixels of a side for an image of 32.
CONVOLUTIONS = [(64, 32)] * 2 + [(128, 16)] * 2 + [(256, 8)] * 3 + [(512, 4)] * 3 + [(512, 2)] * 3


@pytest.mark.parametrize("image_size", [32, 64])
def test_the_number_of_parameters_is_that_of_configuration_d_with_one_linear_layer(image_size: int) -> None:
    with torch.device("meta"):
        network = VGG16(image_size=image_size)
    convolutions = BLOCK_1 + BLOCK_2 + BLOCK_3 + BLOCK_4 + BLOCK_5
    assert convolutions == 14_710_464
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == convolutions + NORMS + 512 * 10 + 10 == 14_724_042


def test_tiny_imagenet_has_200_outputs_more_and_nothing_else() -> None:
    with torch.device("meta"):
        network = VGG16(num_classes=200, image_size=64)
    assert sum(parameter.numel() for parameter in network.parameters()) == 14_724_042 + 190 * (512 + 1)


@pytest.mark.parametrize("image_size", [32, 64])
def test_every_convolution_sees_the_image_in_its_size(image_size: int) -> None:
    network, seen = VGG16(image_size=image_size).to("meta"), []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output.shape[1:])

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(look)
    network(torch.empty(2, 3, image_size, image_size, device="meta"))
    factor = image_size // 32
    assert seen == [(channels, side * factor, side * factor) for channels, side in CONVOLUTIONS]


def test_batch_norm_and_relu_follow_every_convolution_which_has_no_bias() -> None:
    with torch.device("meta"):
        layers = [layer for layer in VGG16().features if not isinstance(layer, nn.MaxPool2d)]
    assert len(layers) == 3 * 13
    for index in range(0, len(layers), 3):
        assert isinstance(layers[index], nn.Conv2d)
        assert layers[index].bias is None
        assert isinstance(layers[index + 1], nn.BatchNorm2d)
        assert isinstance(layers[index + 2], nn.ReLU)


@pytest.mark.parametrize("image_size", [32, 64])
def test_what_the_last_block_leaves_is_averaged_over_its_pixels(image_size: int) -> None:
    network = VGG16(num_classes=7, image_size=image_size, width_multiplier=1 / 16)
    images, linear = torch.randn(2, 3, image_size, image_size), network.classifier[-1]
    features = network.features(images)  # in training, where the norms keep them of size 1
    assert features.shape == (2, 32, image_size // 16, image_size // 16)
    expected = features.mean(dim=(2, 3)) @ linear.weight.T + linear.bias
    assert expected.std() > 0.1
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("image_size", [-16, 0, 8, 33, 40])
def test_an_image_that_does_not_halve_evenly_is_an_error_that_names_its_size(image_size: int) -> None:
    with pytest.raises(UserError, match=f"VGG16 halves its image 4 times: image_size = {image_size} is no multiple"):
        VGG16(image_size=image_size)
