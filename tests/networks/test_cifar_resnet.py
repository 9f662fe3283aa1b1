"""ResNet-20 and ResNet-32 against section 4.2 of He et al. 2016, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_subnets.networks import ResNet20, ResNet32
from lightning_subnets.networks.cifar_resnet import Shortcut

RESNETS = [(ResNet20, 3), (ResNet32, 5)]


@pytest.mark.parametrize(
    ("resnet", "blocks", "parameters"), [(ResNet20, 3, 269_722), (ResNet32, 5, 464_154)], ids=["20", "32"]
)
def test_the_number_of_parameters_is_that_of_table_6(resnet: type[nn.Module], blocks: int, parameters: int) -> None:
    with torch.device("meta"):
        network = resnet()
    stem = 9 * 3 * 16
    # Of a stage's 2n convolutions all but the first go from its channels to its channels.
    stages = 9 * sum(before * now + (2 * blocks - 1) * now * now for before, now in ((16, 16), (16, 32), (32, 64)))
    norms = 2 * (16 + 2 * blocks * (16 + 32 + 64))
    by_hand = stem + stages + norms + 64 * 10 + 10
    assert sum(parameter.numel() for parameter in network.parameters()) == by_hand == parameters
    assert round(parameters / 1e6, 2) == {3: 0.27, 5: 0.46}[blocks]  # Table 6


@pytest.mark.parametrize(("resnet", "blocks"), RESNETS)
def test_it_is_as_deep_as_its_name_says(resnet: type[nn.Module], blocks: int) -> None:
    with torch.device("meta"):
        layers = [layer for layer in resnet().modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6 * blocks + 2 == int(resnet.__name__.removeprefix("ResNet"))
    assert all(layer.kernel_size == (3, 3) and layer.bias is None for layer in layers if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize(("size", "sides"), [(32, (32, 16, 8)), (64, (64, 32, 16)), (31, (31, 16, 8))])
def test_each_stage_halves_the_image_and_doubles_the_channels(size: int, sides: tuple[int, ...]) -> None:
    network, seen = ResNet20().to("meta"), []

    def look(stage: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output.shape[1:])

    for stage in (network.layer1, network.layer2, network.layer3):
        stage.register_forward_hook(look)
    assert network(torch.empty(2, 3, size, size, device="meta")).shape == (2, 10)
    assert seen == [(channels, side, side) for channels, side in zip((16, 32, 64), sides, strict=True)]


def test_a_shortcut_is_every_second_pixel_and_zeros_for_new_channels() -> None:
    shortcut, images = Shortcut(3), torch.randn(2, 4, 6, 6)
    output = shortcut(images)
    assert not list(shortcut.parameters())
    assert output.shape == (2, 7, 3, 3)
    for row in range(3):
        for column in range(3):
            assert torch.equal(output[:, :4, row, column], images[:, :, 2 * row, 2 * column])
    assert not output[:, 4:].any()


@pytest.mark.parametrize(("resnet", "blocks"), RESNETS)
def test_a_network_whose_blocks_add_nothing_hands_the_stem_through(resnet: type[nn.Module], blocks: int) -> None:
    network = resnet().eval()
    for name, norm in network.named_modules():
        if name.endswith("bn2"):
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.zeros_(norm.weight)
    images = torch.randn(2, 3, 32, 32)
    assert isinstance(network, ResNet20 | ResNet32)
    stem = network.relu(network.bn1(network.conv1(images)))
    pooled = torch.cat([stem[:, :, ::4, ::4].mean(dim=(2, 3)), torch.zeros(2, 48)], dim=1)
    torch.testing.assert_close(network(images), network.fc(pooled))
