"""What cannot be masked is an error that names it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, prune

from lightning_subnets import (
    EdgePopup,
    UserError,
    density,
    mask_,
    masked_layers,
    unmask_,
)


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 4, 5)
    )


def randomize_(network: nn.Module) -> nn.Module:
    """As if trained: nothing that mask_ might reset is what it resets it to."""
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return network


def state_of(network: nn.Module) -> dict[str, object]:
    """All that mask_ could touch, to the bit."""
    state: dict[str, object] = {name: type(module) for name, module in network.named_modules()}
    for name, parameter in network.named_parameters():
        bits = parameter.detach().contiguous().view(-1).view(torch.uint8).tolist()
        state[f"{name}:parameter"] = (id(parameter), parameter.requires_grad, bits)
    return state


def scores_for_mask(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: scores for name, scores in network.named_parameters() if name.endswith("scores")}


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


@pytest.mark.parametrize(
    ("network", "message"),
    [
        pytest.param(after_linear(OddConv2d(4, 4, 1)), r"'1' .*\.OddConv2d .*\(weight, bias\)", id="subclass"),
        pytest.param(after_linear(Scaled()), r"'1' .*\.Scaled .*\(gain\)", id="raw parameter"),
        pytest.param(vision_transformer(), r"VisionTransformer .*\(class_token\)", id="vision transformer"),
        pytest.param(
            after_linear(nn.MultiheadAttention(4, 2)), r"'1' .*MultiheadAttention .*\(in_proj_weight", id="attention"
        ),
        pytest.param(after_linear(nn.Conv1d(4, 4, 1)), r"'1' .*\.Conv1d", id="other layer"),
        pytest.param(after_linear(nn.Embedding(4, 4)), r"'1' .*\.Embedding", id="embedding"),
        pytest.param(
            after_linear(parametrizations.weight_norm(nn.Linear(4, 4, bias=False))), r"'1\b", id="parametrization"
        ),
        pytest.param(after_linear(pruned_by_torch()), r"'1'", id="weight recomputed by a hook"),
        pytest.param(tied(), r"'0'.*'1'", id="weight of two layers"),
        pytest.param(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), r"Sequential has no layer to mask", id="no layer"),
        pytest.param(
            mask_(nn.Sequential(nn.Linear(3, 3)), EdgePopup(0.5)),
            r"Sequential is masked already: call unmask_",
            id="masked",
        ),
    ],
)
def test_what_cannot_be_masked_is_an_error_that_names_it_and_is_left_as_it_was(
    network: nn.Module, message: str
) -> None:
    before = state_of(network)
    with pytest.raises(UserError, match=message):
        mask_(network, EdgePopup(0.5))
    assert state_of(network) == before


def test_an_unknown_distribution_is_an_error_and_the_network_is_left_as_it_was() -> None:
    network = randomize_(small_network())
    before = state_of(network)
    with pytest.raises(UserError, match="unknown weight distribution 'kaiming'"):
        mask_(network, EdgePopup(0.5), weights="kaiming")
    assert state_of(network) == before
    assert not list(scores_for_mask(network))


@pytest.mark.parametrize("function", [unmask_, masked_layers, density])
def test_a_network_that_is_not_masked_is_an_error_that_says_what_to_call(function: Any) -> None:
    with pytest.raises(UserError, match=r"Sequential is not masked: call mask_\("):
        function(small_network())
    with pytest.raises(UserError, match="is not masked"):
        function(unmask_(mask_(small_network(), EdgePopup(0.5))))


def test_a_layer_without_weights_in_memory_is_an_error() -> None:
    with pytest.raises(UserError, match="'1' of Sequential has no weights to draw"):
        mask_(after_linear(nn.Linear(4, 4, device="meta")), EdgePopup(0.5))


def test_a_class_instead_of_a_method_is_an_error() -> None:
    with pytest.raises(UserError, match=r"EdgePopup\(density=0.3\) is one"):
        mask_(small_network(), EdgePopup)  # type: ignore[arg-type]


def test_a_nan_score_is_an_error_of_the_forward_pass() -> None:
    network = mask_(small_network(), EdgePopup(0.5))
    with torch.no_grad():
        network.get_parameter("4.scores")[0, 0] = torch.nan
    with pytest.raises(UserError, match="a score is NaN"):
        network(torch.randn(2, 3, 4, 4))
