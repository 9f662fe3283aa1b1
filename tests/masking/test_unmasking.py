"""A network that is unmasked is a plain one with the mask in its weights."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from lightning_subnets import (
    Dense,
    EdgePopup,
    mask_,
    masked_layers,
    unmask_,
)


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 4, 5)
    )


def test_an_unmasked_resnet_is_a_plain_one_with_the_same_logits() -> None:
    network = mask_(torchvision.models.resnet18(), EdgePopup(0.3), weights="kaiming_normal")
    images = torch.randn(4, 3, 64, 64)
    network(images)  # running statistics of its own
    logits = network.eval()(images)
    assert unmask_(network) is network
    stock = torchvision.models.resnet18()
    stock.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(network(images), logits)
    assert torch.equal(stock.eval()(images), logits)


@pytest.mark.parametrize("method", [EdgePopup(0.3), Dense()], ids=lambda method: type(method).__name__)
def test_nothing_of_the_package_is_left_in_an_unmasked_network(method: EdgePopup | Dense) -> None:
    fresh = torchvision.models.resnet18()
    network = unmask_(mask_(torchvision.models.resnet18(), method))
    assert repr(network) == repr(fresh)
    assert list(network.state_dict()) == list(fresh.state_dict())
    assert all(parameter.requires_grad for parameter in network.parameters())
    for ours, plain in zip(network.modules(), fresh.modules(), strict=True):
        assert type(ours) is type(plain)
        assert vars(ours).keys() == vars(plain).keys()
        assert ours._parameters.keys() == plain._parameters.keys()
        assert ours._buffers.keys() == plain._buffers.keys()


def test_an_unmasked_network_has_exactly_the_kept_weights_and_can_be_masked_again() -> None:
    network = mask_(small_network(), EdgePopup(0.3))
    masks = {name: layer.mask() for name, layer in masked_layers(network)}
    unmask_(network)
    for name, mask in masks.items():
        assert torch.equal(network.get_parameter(f"{name}.weight") != 0, mask)
    mask_(network, EdgePopup(0.3))
    assert len(masked_layers(network)) == 2
