"""The networks against Table 1 of the paper, by hand."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_subnets import EdgePopup, UserError, density, mask_
from lightning_subnets.networks import Conv2, Conv4, Conv6, Conv8, small_stem_resnet
from lightning_subnets.networks.small_stem import small_stem_

# 3x3 convolutions, then the first fully connected layer: of 32 pixels a pool leaves 16, 8, 4, 2.
PAIR_1 = 9 * 3 * 64 + 9 * 64 * 64
PAIR_2 = PAIR_1 + 9 * 64 * 128 + 9 * 128 * 128
PAIR_3 = PAIR_2 + 9 * 128 * 256 + 9 * 256 * 256
PAIR_4 = PAIR_3 + 9 * 256 * 512 + 9 * 512 * 512
LAST = 256 * 256 + 256 * 10
TABLE_1 = [
    (Conv2, PAIR_1 + 64 * 16 * 16 * 256 + LAST, 4_300_992),
    (Conv4, PAIR_2 + 128 * 8 * 8 * 256 + LAST, 2_425_024),
    (Conv6, PAIR_3 + 256 * 4 * 4 * 256 + LAST, 2_261_184),
    (Conv8, PAIR_4 + 512 * 2 * 2 * 256 + LAST, 5_275_840),
]
CONVS = [Conv2, Conv4, Conv6, Conv8]


@pytest.mark.parametrize(("conv", "by_hand", "weights"), TABLE_1)
def test_the_number_of_weights_is_that_of_table_1(conv: type[nn.Module], by_hand: int, weights: int) -> None:
    with torch.device("meta"):
        network = conv()
    assert sum(parameter.numel() for parameter in network.parameters()) == by_hand == weights


@pytest.mark.parametrize("conv", CONVS)
def test_there_are_no_biases_and_no_norms(conv: type[nn.Module]) -> None:
    with torch.device("meta"):
        network = conv()
    assert all(parameter.dim() > 1 for parameter in network.parameters())
    assert not list(network.buffers())


@pytest.mark.parametrize("multiplier", [0.25, 0.5, 2.0])
@pytest.mark.parametrize("conv", CONVS)
def test_the_width_multiplier_scales_every_width_but_inputs_and_outputs(
    conv: type[nn.Module], multiplier: float
) -> None:
    with torch.device("meta"):
        plain, scaled = conv(), conv(width_multiplier=multiplier)
    shapes = [list(weight.shape) for weight in plain.parameters()]
    for shape in shapes:
        shape[:2] = [int(width * multiplier) for width in shape[:2]]
    shapes[0][1], shapes[-1][0] = 3, 10
    assert [list(weight.shape) for weight in scaled.parameters()] == shapes


@pytest.mark.parametrize(("conv", "smallest"), list(zip(CONVS, [2, 4, 8, 16], strict=True)))
@pytest.mark.parametrize("factor", [1, 3])
def test_any_image_from_the_smallest_on_becomes_logits(conv: type[nn.Module], smallest: int, factor: int) -> None:
    size = smallest * factor
    network = conv(num_classes=7, in_channels=1, image_size=size, width_multiplier=1 / 16)
    assert network(torch.randn(2, 1, size, size)).shape == (2, 7)


def test_an_image_that_does_not_halve_evenly_becomes_logits() -> None:
    assert Conv4(image_size=30, width_multiplier=1 / 16)(torch.randn(2, 3, 30, 30)).shape == (2, 10)


@pytest.mark.parametrize(("conv", "too_small"), list(zip(CONVS, [1, 3, 7, 15], strict=True)))
def test_an_image_too_small_for_the_pools_is_an_error_that_names_its_size(
    conv: type[nn.Module], too_small: int
) -> None:
    with pytest.raises(UserError, match=f"{conv.__name__} halves .*image_size = {too_small} is below {too_small + 1}"):
        conv(image_size=too_small)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, 1 / 65])
def test_a_width_that_leaves_no_channels_is_an_error_that_names_it(multiplier: float) -> None:
    with pytest.raises(UserError, match=f"width_multiplier = {multiplier} leaves Conv2 without channels"):
        Conv2(width_multiplier=multiplier)
    assert Conv2(width_multiplier=1 / 64)(torch.randn(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("conv", CONVS)
def test_a_convolutional_network_can_be_masked(conv: type[nn.Module]) -> None:
    network = mask_(conv(width_multiplier=1 / 16), EdgePopup(0.5))
    assert density(network) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_small_stem_brings_a_small_image_to_the_first_block_in_full_size(name: str) -> None:
    seen: list[torch.Size] = []
    network = small_stem_resnet(name, num_classes=7).eval()

    def look(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].shape)

    network.layer1.register_forward_pre_hook(look)
    with torch.no_grad():
        assert network(torch.randn(1, 3, 32, 32)).shape == (1, 7)
    assert seen == [(1, 64, 32, 32)]


def test_the_small_stem_changes_nothing_but_the_stem() -> None:
    stock = torchvision.models.resnet18(num_classes=10)
    state = {key: value for key, value in stock.state_dict().items() if key != "conv1.weight"}
    network = small_stem_(stock)
    assert network is stock
    assert network.conv1.weight.shape == (64, 3, 3, 3)
    assert {key for key in network.state_dict() if key != "conv1.weight"} == set(state)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())


def test_an_unknown_resnet_is_an_error_that_names_the_nearest_and_all() -> None:
    with pytest.raises(UserError, match=r"unknown ResNet 'resnet81'. Did you mean 'resnet18'\? Known: .*resnet152"):
        small_stem_resnet("resnet81")
