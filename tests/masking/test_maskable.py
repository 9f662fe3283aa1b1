"""A network that cannot be masked is an error that names the layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from masked_networks import masked_network, randomize_, small_network
from torch import nn
from torch.nn.utils import parametrizations, prune

from lightning_subnets import EdgePopup, UserError, density, mask_, masked_layers, unmask_


def state_of(network: nn.Module) -> dict[str, object]:
    """Return everything that ``mask_`` could change, to the bit."""
    state: dict[str, object] = {name: type(module) for name, module in network.named_modules()}
    for name, parameter in network.named_parameters():
        bits = [] if parameter.is_meta else parameter.detach().contiguous().view(-1).view(torch.uint8).tolist()
        state[f"{name}:parameter"] = (id(parameter), parameter.requires_grad, bits)
    return state


class OddConv2d(nn.Conv2d):
    pass


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.gain = nn.Parameter(torch.ones(3))


def vision_transformer() -> nn.Module:
    network: nn.Module = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8
    )
    return network


def pruned_by_torch() -> nn.Linear:
    layer = nn.Linear(4, 4)
    prune.identity(layer, "weight")  # type: ignore[no-untyped-call]
    return layer


def tied() -> nn.Sequential:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    return network


def after_linear(module: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), module)


CASES = {
    "subclass": (after_linear(OddConv2d(4, 4, 1)), r"'1' .*\.OddConv2d .*\(weight, bias\)"),
    "raw parameter": (after_linear(Scaled()), r"'1' .*\.Scaled .*\(gain\)"),
    "vision transformer": (vision_transformer(), r"VisionTransformer .*\(class_token\)"),
    "attention": (after_linear(nn.MultiheadAttention(4, 2)), r"'1' .*MultiheadAttention .*\(in_proj_weight"),
    "other layer": (after_linear(nn.Conv1d(4, 4, 1)), r"'1' .*\.Conv1d"),
    "embedding": (after_linear(nn.Embedding(4, 4)), r"'1' .*\.Embedding"),
    "parametrization": (after_linear(parametrizations.weight_norm(nn.Linear(4, 4, bias=False))), r"'1\b"),
    "weight recomputed by a hook": (after_linear(pruned_by_torch()), r"'1'"),
    "weight of two layers": (tied(), r"'0'.*'1'"),
    "no weights in memory": (after_linear(nn.Linear(4, 4, device="meta")), "'1' of Sequential has no weights to draw"),
    "no layer": (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), r"Sequential has no layer to mask"),
    "masked": (masked_network(), r"Sequential is masked already: call unmask_"),
}


@pytest.mark.parametrize(("network", "message"), CASES.values(), ids=CASES)
def test_a_network_that_cannot_be_masked_is_an_error_and_stays_unchanged(network: nn.Module, message: str) -> None:
    before = state_of(network)
    with pytest.raises(UserError, match=message):
        mask_(network, EdgePopup(0.5))
    assert state_of(network) == before


def test_an_unknown_distribution_is_an_error_and_the_network_stays_unchanged() -> None:
    network = randomize_(small_network())
    before = state_of(network)
    with pytest.raises(UserError, match="unknown weight distribution 'kaiming'"):
        mask_(network, EdgePopup(0.5), weights="kaiming")
    assert state_of(network) == before


@pytest.mark.parametrize("function", [unmask_, masked_layers, density])
def test_a_network_that_is_not_masked_is_an_error_that_says_what_to_call(function: Any) -> None:
    for network in (small_network(), unmask_(masked_network())):
        with pytest.raises(UserError, match=r"Sequential is not masked: call mask_\("):
            function(network)


def test_a_class_instead_of_a_method_is_an_error() -> None:
    with pytest.raises(UserError, match=r"EdgePopup\(density=0.3\) is one"):
        mask_(small_network(), EdgePopup)  # type: ignore[arg-type]
