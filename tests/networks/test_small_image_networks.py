"""What holds of VGG-16, the CIFAR ResNets and AlexNet alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_subnets import EdgePopup, UserError, density, mask_, masked_layers
from lightning_subnets.networks import VGG16, AlexNet, ResNet20, ResNet32

NARROWEST = {VGG16: 64, ResNet20: 16, ResNet32: 16, AlexNet: 96}
every_network = pytest.mark.parametrize("kind", list(NARROWEST))
Kind = Callable[..., nn.Module]


@every_network
@pytest.mark.parametrize("size", [32, 64])
def test_images_of_32_and_64_pixels_become_logits(kind: Kind, size: int) -> None:
    sized = {"image_size": size} if kind in (VGG16, AlexNet) else {}
    network = kind(num_classes=7, in_channels=1, width_multiplier=1 / 16, **sized)
    logits = network(torch.randn(2, 1, size, size))
    assert logits.shape == (2, 7)
    assert not torch.allclose(logits[0], logits[1])


@every_network
@pytest.mark.parametrize("multiplier", [0.25, 0.5, 2.0])
def test_the_width_multiplier_scales_every_width_but_inputs_and_outputs(kind: Kind, multiplier: float) -> None:
    with torch.device("meta"):
        plain, scaled = kind(), kind(width_multiplier=multiplier)
    shapes = [[int(n * multiplier) for n in shape[:2]] + list(shape[2:]) for shape in map(_shape, plain.parameters())]
    shapes[0][1] = 3  # the first layer's inputs
    shapes[-2][0] = shapes[-1][0] = 10  # the last layer's outputs
    assert [list(_shape(parameter)) for parameter in scaled.parameters()] == shapes


def _shape(parameter: nn.Parameter) -> torch.Size:
    return parameter.shape


@every_network
@pytest.mark.parametrize("multiplier", [0.0, -1.0, float("nan"), 1 / 97])
def test_a_width_that_leaves_no_channels_is_an_error_that_names_it(kind: type[nn.Module], multiplier: float) -> None:
    name, narrowest = kind.__name__, NARROWEST[kind]
    message = f"width_multiplier = {multiplier} leaves {name} without channels: at least 1/{narrowest}"
    with pytest.raises(UserError, match=message):
        kind(width_multiplier=multiplier)


@every_network
def test_the_narrowest_network_has_one_channel_in_its_first_layer(kind: type[nn.Module]) -> None:
    network = kind(width_multiplier=1 / NARROWEST[kind])
    assert next(network.parameters()).shape[0] == 1
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@every_network
def test_a_step_under_masks_trains_the_scores_of_every_layer_and_nothing_else(kind: Kind) -> None:
    network = mask_(kind(width_multiplier=1 / 8), EdgePopup(0.5))
    assert density(network) == pytest.approx(0.5, abs=1e-3)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    scores = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(scores, lr=0.1)
    loss = nn.functional.cross_entropy(network(torch.randn(8, 3, 32, 32)), torch.arange(8))
    torch.autograd.backward(loss)
    optimizer.step()
    assert loss.isfinite()
    changed = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {f"{name}.scores" for name, _ in masked_layers(network)}
