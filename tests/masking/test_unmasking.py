"""An unmasked network is a plain one with the mask in its weights, and a copy is a masked network of its own."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torchvision
from masked_networks import IMAGES, masked_network, small_network
from torch import nn

from lightning_subnets import Dense, EdgePopup, mask_, masked_weights, masks, unmask_


def test_an_unmasked_resnet_is_a_plain_one_with_the_same_logits() -> None:
    network = mask_(torchvision.models.resnet18(), EdgePopup(0.3), weights="kaiming_normal")
    images = torch.randn(2, 3, 32, 32)
    network(images)  # gives it running statistics of its own
    logits = network.eval()(images)
    assert unmask_(network) is network
    stock = torchvision.models.resnet18()
    stock.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(network(images), logits)
    assert torch.equal(stock.eval()(images), logits)


@pytest.mark.parametrize("method", [EdgePopup(0.3), Dense()], ids=lambda method: type(method).__name__)
def test_nothing_of_the_package_is_left_in_an_unmasked_network(method: EdgePopup | Dense) -> None:
    fresh, network = small_network(), mask_(small_network(), method)
    network(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        unmask_(network)
    assert repr(network) == repr(fresh)
    assert list(network.state_dict()) == list(fresh.state_dict())
    assert all(parameter.requires_grad for parameter in network.parameters())
    for ours, plain in zip(network.modules(), fresh.modules(), strict=True):
        assert type(ours) is type(plain)
        assert vars(ours).keys() == vars(plain).keys()
        assert ours._parameters.keys() == plain._parameters.keys()


def test_an_unmasked_network_has_exactly_the_kept_weights_and_can_be_masked_again() -> None:
    network = masked_network()
    kept = masks(network)
    unmask_(network)
    for name, mask in kept.items():
        assert torch.equal(network.get_parameter(name) != 0, mask)
    assert masks(mask_(network, EdgePopup(0.4))).keys() == kept.keys()


def test_a_copy_computes_the_same_and_changes_by_itself() -> None:
    network = masked_network().eval()
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), torch.load(file, weights_only=False)):
        assert list(masked_weights(other)) == ["0.weight", "3.weight", "6.weight"]
        assert torch.equal(other(IMAGES), network(IMAGES))
        with torch.no_grad():
            other.get_parameter("6.scores").neg_().sub_(1.0)
        assert not torch.equal(other(IMAGES), network(IMAGES))
        assert type(unmask_(other).get_submodule("0")) is nn.Conv2d
