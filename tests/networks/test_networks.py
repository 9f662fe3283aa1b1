"""Properties of every network of this package."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_subnets import EdgePopup, UserError, density, mask_
from lightning_subnets.networks import (
    VGG16,
    AirbenchNet,
    AlexNet,
    Conv2,
    Conv4,
    Conv6,
    Conv8,
    FoldedResNet,
    ResNet20,
    ResNet32,
)

Kind = Callable[..., nn.Module]
# The width of the narrowest layer that the multiplier scales.
NARROWEST: dict[Kind, int] = {
    Conv2: 64,
    Conv8: 64,
    VGG16: 64,
    ResNet20: 16,
    ResNet32: 16,
    AlexNet: 96,
    AirbenchNet: 64,
    FoldedResNet: 64,
}
every_network = pytest.mark.parametrize("kind", NARROWEST)


def sized(kind: Kind, size: int) -> dict[str, int]:
    """Return the arguments for images of this size; some networks take images of any size."""
    return {} if kind in (ResNet20, ResNet32, AirbenchNet, FoldedResNet) else {"image_size": size}


@every_network
@pytest.mark.parametrize("size", [32, 64])
def test_images_become_logits_under_masks(kind: Kind, size: int) -> None:
    network = kind(num_classes=7, in_channels=1, width_multiplier=1 / 8, **sized(kind, size))
    assert density(mask_(network, EdgePopup(0.5))) == pytest.approx(0.5, abs=1e-3)
    logits = network(torch.randn(2, 1, size, size))
    assert logits.shape == (2, 7)
    assert not torch.allclose(logits[0], logits[1])


@every_network
@pytest.mark.parametrize("multiplier", [0.25, 2.0])
def test_the_width_multiplier_scales_every_width_but_inputs_and_outputs(kind: Kind, multiplier: float) -> None:
    with torch.device("meta"):
        plain, scaled = list(kind().parameters()), list(kind(width_multiplier=multiplier).parameters())
    expected = [[int(n * multiplier) for n in weight.shape[:2]] + list(weight.shape[2:]) for weight in plain]
    expected[0][1] = 3  # the inputs of the first layer
    for index, weight in enumerate(plain[-2:], start=len(plain) - 2):  # the outputs of the last layer
        if weight.shape[0] == 10:
            expected[index][0] = 10
    assert [list(weight.shape) for weight in scaled] == expected


@every_network
def test_a_width_that_leaves_no_channels_is_an_error_and_one_channel_is_not(kind: type[nn.Module]) -> None:
    name, narrowest = kind.__name__, NARROWEST[kind]
    for multiplier in (0.0, -1.0, float("nan"), 1 / (narrowest + 1)):
        message = f"width_multiplier = {multiplier} leaves {name} without channels: at least 1/{narrowest}"
        with pytest.raises(UserError, match=message):
            kind(width_multiplier=multiplier)
    network = kind(width_multiplier=1 / narrowest)
    assert next(network.parameters()).shape[0] == 1
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        *((conv, 2**pairs - 1, f"below {2**pairs}, and {conv.__name__} halves it {pairs} times")
          for pairs, conv in enumerate((Conv2, Conv4, Conv6, Conv8), start=1)),
        *((VGG16, size, "not a multiple of 16: VGG16 halves it 4 times") for size in (0, 40)),
        *((AlexNet, size, "not a multiple of 16: AlexNet's first stride is image_size / 16") for size in (0, 40)),
    ],
)  # fmt: skip
def test_an_image_size_that_does_not_fit_is_an_error(kind: Kind, size: int, message: str) -> None:
    with pytest.raises(UserError, match=f"image_size = {size} is {message}"):
        kind(image_size=size)


@pytest.mark.parametrize("kind", [Conv2, Conv8, AirbenchNet])
def test_a_network_with_norms_has_no_parameters_but_weights(kind: Kind) -> None:
    network = kind() if kind is AirbenchNet else kind(norm="batch")
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]
    weights = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert len(norms) == len(weights) - (2 if kind is AirbenchNet else 1)  # the stem and the last layer have none
    assert len(list(network.parameters())) == len(weights)


def test_without_norms_the_names_of_the_weights_stay() -> None:
    names = [name for name, _ in Conv2().named_parameters()]
    layers = ("features.0", "features.2", "classifier.1", "classifier.3", "classifier.5")
    assert names == [f"{layer}.weight" for layer in layers]


def test_an_unknown_norm_is_an_error() -> None:
    with pytest.raises(UserError, match="norm = 'layer' is neither 'none' nor 'batch'"):
        Conv4(norm="layer")  # type: ignore[arg-type]
