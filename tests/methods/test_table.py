"""What holds of every method: a new one is a row of the table."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from lightning_subnets import Dense, EdgePopup, Method, density, mask_, masked_layers, unmask_
from lightning_subnets.digest import weights_digest

METHODS = [EdgePopup(0.3), EdgePopup(0.5), Dense()]
every_method = pytest.mark.parametrize(
    "method", METHODS, ids=lambda method: f"{type(method).__name__} {method.density}"
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shuffle_net() -> nn.Module:
    """With convolutions in groups, strides and batch norm, and small."""
    network: nn.Module = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    return network


def step_(network: nn.Module, lr: float = 0.1) -> None:
    images, labels = torch.randn(4, 3, 64, 64), torch.randint(10, (4,))
    optimizer = torch.optim.SGD([parameter for parameter in network.parameters() if parameter.requires_grad], lr=lr)
    torch.autograd.backward(nn.functional.cross_entropy(network(images), labels))
    optimizer.step()


@every_method
def test_every_layer_keeps_exactly_what_its_density_says_before_and_after_a_step(method: Method) -> None:
    network = mask_(shuffle_net(), method)
    for _ in range(2):
        kept = 0
        for name, layer in masked_layers(network):
            total = layer.weight.numel()
            expected = total - int((1 - method.density) * total)
            assert int(layer.mask().sum()) == layer.num_kept == expected
            assert density(network, per_layer=True)[name] == expected / total
            kept += expected
        assert density(network) == kept / sum(layer.weight.numel() for _, layer in masked_layers(network))
        step_(network)


@every_method
def test_what_is_frozen_is_bitwise_unchanged_after_a_step_and_the_rest_is_not(method: Method) -> None:
    network = mask_(shuffle_net(), method)
    trained = {name for name, _ in network.named_parameters() if name.endswith("scores") == (method.trains == "scores")}
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    digest = weights_digest(network)
    step_(network)
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == (name in trained)
        unchanged = torch.equal(parameter.view(torch.int32), before[name].view(torch.int32))
        assert unchanged == (name not in trained), name
    assert (weights_digest(network) == digest) == (method.trains == "scores")


@every_method
def test_the_seed_determines_the_network(method: Method) -> None:
    first = mask_(shuffle_net(), method, seed=1).state_dict()
    same = mask_(shuffle_net(), method, seed=1).state_dict()
    other = mask_(shuffle_net(), method, seed=2).state_dict()
    drawn = [key for key in first if key.endswith("scores") or first[key].dim() == 4]
    assert drawn
    for key in drawn:
        assert torch.equal(first[key], same[key])
        assert not torch.equal(first[key], other[key])


@every_method
def test_two_runs_from_one_seed_are_the_same_to_the_bit(method: Method) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(1)
        network = mask_(shuffle_net(), method, weights="kaiming_normal", seed=1)
        for _ in range(2):
            step_(network)
        states.append(copy.deepcopy(network.state_dict()))
    first, second = states
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@every_method
def test_an_unmasked_network_has_equal_logits_in_plain_torchvision(method: Method) -> None:
    network = mask_(shuffle_net(), method)
    step_(network)
    images = torch.randn(2, 3, 64, 64)
    logits = network.eval()(images)
    stock = shuffle_net()
    stock.load_state_dict(unmask_(network).state_dict(), strict=True)
    assert torch.equal(stock.eval()(images), logits)
    assert logits.std() > 0
