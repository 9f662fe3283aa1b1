"""A network that cannot be masked is an error that names the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from masked_networks import masked_network, randomize_, small_network
from torch import nn
from torch.nn.utils import parametrizations, prune

from lightning_subnets import EdgePopup, UserError, density, mask_, masked_weights, unmask_


def state_of(network: nn.Module) -> dict[str, object]:
    """Return everything that ``mask_`` could change, to the bit."""
    state: dict[str, object] = {name: type(module) for name, module in network.named_modules()}
    for name, parameter in network.named_parameters():
        bits = (
            []
            if parameter.is_meta or nn.parameter.is_lazy(parameter)
            else parameter.detach().contiguous().view(-1).view(torch.uint8).tolist()
        )
        state[f"{name}:parameter"] = (id(parameter), parameter.requires_grad, bits)
    return state


def pruned_by_torch() -> nn.Linear:
    layer = nn.Linear(4, 4)
    prune.identity(layer, "weight")  # type: ignore[no-untyped-call]
    return layer


def attention_pruned_by_torch() -> nn.MultiheadAttention:
    layer = nn.MultiheadAttention(4, 2)
    prune.l1_unstructured(layer, "in_proj_weight", 0.5)  # type: ignore[no-untyped-call]
    return layer


def norm_pruned_by_torch() -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(4)
    prune.identity(norm, "weight")  # type: ignore[no-untyped-call]
    return norm


def with_a_constant_kernel() -> nn.Module:
    module = nn.Module()
    module.weight = torch.ones(4, 4)
    return module


def tied_to_an_embedding() -> nn.Sequential:
    network = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4, bias=False))
    network[1].weight = network[0].weight
    return network


def with_scores() -> nn.Linear:
    layer = nn.Linear(4, 4)
    layer.scores = nn.Parameter(torch.ones(4))
    return layer


class WithItsOwnWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def after_linear(module: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), module)


CASES = {
    "recurrent": (after_linear(nn.LSTM(4, 4)), r"'1\.weight_ih_l0' .* LSTM.*keep_dense=\['1\.\*'\]"),
    "recurrent alone": (nn.LSTM(4, 4), r"'weight_ih_l0' .* LSTM.*keep_dense=\['weight_\*'\]"),
    "lazy": (after_linear(nn.LazyLinear(4)), r"'1.*' of Sequential is .*lazy.*pass a batch"),
    "its own scores": (after_linear(with_scores()), r"'1\.weight' .*has an attribute 'scores'"),
    "tied": (tied_to_an_embedding(), r"'0\.weight' .*Embedding.*also_mask=\['0\.weight'\]"),
    "parametrization": (after_linear(parametrizations.weight_norm(nn.Linear(4, 4, bias=False))), r"'1\b"),
    "weight recomputed by a hook": (after_linear(pruned_by_torch()), r"'1'"),
    "attention pruned by torch": (after_linear(attention_pruned_by_torch()), r"'1' of Sequential is computed from"),
    "norm pruned by torch": (after_linear(norm_pruned_by_torch()), r"'1' of Sequential is computed from"),
    "a constant": (after_linear(with_a_constant_kernel()), r"'1' of Sequential is a tensor and no parameter"),
    "no weights in memory": (
        after_linear(nn.Linear(4, 4, device="meta")),
        r"'1\.weight' of Sequential has no weights to draw, .* meta device .*keep_dense=\['1\.weight'\]",
    ),
    "traced": (torch.fx.symbolic_trace(WithItsOwnWeight()), r"'weight' of .* of a traced module itself"),
    "no layer": (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), r"Sequential has no weight to mask"),
    "masked": (masked_network(), r"Sequential is masked already: call unmask_"),
}


@pytest.mark.filterwarnings("ignore")  # torch deprecates both
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: torch.ao.nn.quantized.Linear(4, 4), "'1' of Sequential is quantized"),  # type: ignore[no-untyped-call]
        (lambda: torch.jit.script(nn.Linear(4, 4)), "'1' of Sequential is a scripted module"),
    ],
    ids=["quantized", "scripted"],
)
def test_a_layer_whose_weights_are_out_of_reach_is_an_error(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mask_(after_linear(build()), EdgePopup(0.5))


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


@pytest.mark.parametrize("function", [unmask_, masked_weights, density])
def test_a_network_that_is_not_masked_is_an_error_that_says_what_to_call(function: Any) -> None:
    for network in (small_network(), unmask_(masked_network())):
        with pytest.raises(UserError, match=r"Sequential is not masked: call mask_\("):
            function(network)


def test_a_class_instead_of_a_method_is_an_error() -> None:
    with pytest.raises(UserError, match=r"EdgePopup'> is not a method: .*EdgePopup\(density=0\.3\)$"):
        mask_(small_network(), EdgePopup)  # type: ignore[arg-type]


def with_a_pruned_bias() -> nn.Module:
    layer = nn.Linear(4, 4)
    prune.l1_unstructured(layer, "bias", 0.5)  # type: ignore[no-untyped-call]
    return layer


def with_weights_of_classes() -> nn.Module:
    network, loss = nn.Sequential(nn.Linear(4, 4)), nn.Module()
    loss.weight = torch.ones(4)
    return network.append(loss)


@pytest.mark.parametrize("build", [with_a_pruned_bias, with_weights_of_classes])
def test_a_tensor_that_is_no_weight_is_no_obstacle(build: Callable[[], nn.Module]) -> None:
    assert density(mask_(nn.Sequential(build()), EdgePopup(0.5))) == 0.5
