"""The networks against the tables of their papers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from lightning_subnets import UserError
from lightning_subnets.networks import (
    VGG16,
    AirbenchNet,
    AlexNet,
    Conv2,
    Conv4,
    Conv6,
    Conv8,
    ResNet20,
    ResNet32,
    small_stem_resnet,
)
from lightning_subnets.networks.cifar_resnet import Shortcut
from lightning_subnets.networks.small_stem import small_stem_


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (Conv2, 4_300_992),  # Ramanujan et al. 2020, Table 1
        (Conv4, 2_425_024),
        (Conv6, 2_261_184),
        (Conv8, 5_275_840),
        (ResNet20, 269_722),  # He et al. 2016, Table 6: 0.27 M and 0.46 M
        (ResNet32, 464_154),
        (VGG16, 14_724_042),  # Simonyan and Zisserman 2015, configuration D, one linear layer
        (lambda: VGG16(200, image_size=64), 14_821_512),
        (AirbenchNet, 1_993_984),  # as its docstring says
        (AlexNet, 5_073_642),  # Lee et al. 2019: 5.1 M and 8.5 M, AlexNet-s and -b
        (lambda: AlexNet(hidden_units=2048), 8_495_850),
    ],
)
def test_the_number_of_parameters_is_the_published_one(build: Callable[[], nn.Module], parameters: int) -> None:
    with torch.device("meta"):
        network = build()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def shapes_seen(network: nn.Module, size: int) -> list[tuple[int, ...]]:
    """Return the output shape of each convolution for images of this size, and move the network to the meta device."""
    seen: list[tuple[int, ...]] = []
    for module in network.to("meta").modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape[1:])))
    network(torch.empty(2, 3, size, size, device="meta"))
    return seen


@pytest.mark.parametrize("size", [32, 64])
def test_every_convolution_sees_the_image_in_its_size(size: int) -> None:
    vgg = [(64, 32)] * 2 + [(128, 16)] * 2 + [(256, 8)] * 3 + [(512, 4)] * 3 + [(512, 2)] * 3
    sides = [(channels, side * size // 32, side * size // 32) for channels, side in vgg]
    assert shapes_seen(VGG16(image_size=size), size) == sides
    alexnet = [(96, 16, 16), (256, 8, 8), (384, 4, 4), (384, 2, 2), (256, 1, 1)]
    assert shapes_seen(AlexNet(image_size=size), size) == alexnet
    residual = shapes_seen(ResNet20(), size)
    assert residual == [(c, s * size // 32, s * size // 32) for c, s in [(16, 32)] * 7 + [(32, 16)] * 6 + [(64, 8)] * 6]


@pytest.mark.parametrize("build", [VGG16, AlexNet])
def test_batch_norm_and_relu_follow_every_layer_but_the_last_which_alone_has_a_bias(
    build: Callable[[], nn.Module],
) -> None:
    with torch.device("meta"):
        modules = build().modules()
    kinds = nn.Conv2d, nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.BatchNorm2d
    *hidden, last = (each for each in modules if isinstance(each, kinds))
    for layer, norm, relu in zip(hidden[::3], hidden[1::3], hidden[2::3], strict=True):
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert layer.bias is None
        assert isinstance(norm, nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d)
        assert isinstance(relu, nn.ReLU)
    assert isinstance(last, nn.Linear)
    assert last.bias.shape == (10,)


def test_vgg_averages_the_pixels_that_its_last_block_leaves() -> None:
    network = VGG16(num_classes=7, image_size=64, width_multiplier=1 / 16)
    images, linear = torch.randn(2, 3, 64, 64), network.classifier[-1]
    expected = network.features(images).mean(dim=(2, 3)) @ linear.weight.T + linear.bias
    assert expected.std() > 0.1
    torch.testing.assert_close(network(images), expected)


def test_a_shortcut_takes_every_second_pixel_and_zeros_for_new_channels() -> None:
    shortcut, images = Shortcut(3), torch.randn(2, 4, 6, 6)
    output = shortcut(images)
    assert output.shape == (2, 7, 3, 3)
    assert torch.equal(output[:, :4], images[:, :, [0, 2, 4]][..., [0, 2, 4]])
    assert not output[:, 4:].any()


def test_a_resnet_whose_blocks_add_nothing_passes_the_stem_through() -> None:
    network = ResNet20().eval()
    for name, norm in network.named_modules():
        if name.endswith("bn2"):
            nn.init.zeros_(norm.get_parameter("weight"))
    images = torch.randn(2, 3, 32, 32)
    stem = network.relu(network.bn1(network.conv1(images)))
    pooled = torch.cat([stem[:, :, ::4, ::4].mean(dim=(2, 3)), torch.zeros(2, 48)], dim=1)
    torch.testing.assert_close(network(images), network.fc(pooled))


def test_channels_of_alexnet_are_set_one_by_one_and_scaled_by_the_width() -> None:
    with torch.device("meta"):
        network = AlexNet(width_multiplier=0.5, channels=(8, 16, 24, 32, 40))
    convolutions = [each for each in network.features if isinstance(each, nn.Conv2d)]
    assert [each.out_channels for each in convolutions] == [4, 8, 12, 16, 20]
    assert network(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("arguments", [{"hidden_units": 0}, {"channels": (96, 0, 384, 384, 256)}])
def test_alexnet_without_units_is_an_error(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"hidden_units = \d+ and channels = .* must be at least 1"):
        AlexNet(**arguments)  # type: ignore[arg-type]


def test_the_small_stem_keeps_the_size_of_the_image_and_every_other_weight() -> None:
    stock = torchvision.models.resnet18(num_classes=7)
    state = {key: value for key, value in stock.state_dict().items() if key != "conv1.weight"}
    network = small_stem_(stock)
    assert network is stock
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
    assert shapes_seen(network, 32)[:2] == [(64, 32, 32)] * 2
    assert small_stem_resnet("resnet50", num_classes=7).conv1.weight.shape == (64, 3, 3, 3)
    with pytest.raises(UserError, match=r"unknown ResNet 'resnet81'. Did you mean 'resnet18'\? Known: .*resnet152"):
        small_stem_resnet("resnet81")
