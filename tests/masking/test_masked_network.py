"""Masked networks: what they compute, and that nothing else changes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from lightning_subnets import (
    SNIP,
    Dense,
    EdgePopup,
    Method,
    SynFlow,
    UserError,
    density,
    mask_,
    masked_layers,
    unmask_,
)
from lightning_subnets.masking.initialization import draw_biases, draw_scores, draw_weights

CONVS: list[dict[str, Any]] = [
    {},
    {"groups": 2},
    {"groups": 4},
    {"dilation": 2},
    {"stride": 2, "padding": 1},
    {"stride": (1, 2), "padding": (0, 2), "dilation": (2, 1), "groups": 2, "bias": False},
    {"padding": "same"},
]


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


def parameters_of(network: nn.Module) -> dict[str, nn.Parameter]:
    return dict(network.named_parameters())


def scores_for_mask(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: scores for name, scores in network.named_parameters() if name.endswith("scores")}


# What a masked network computes.


@pytest.mark.parametrize("options", CONVS, ids=str)
def test_a_masked_convolution_is_the_plain_one_with_the_masked_weight(options: dict[str, Any]) -> None:
    layer = nn.Conv2d(4, 8, 3, **options)
    images = torch.randn(2, 4, 9, 9)
    mask_(layer, EdgePopup(0.3), weights=None)
    scores = layer.get_parameter("scores")
    order = scores.detach().abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(scores.numel())
    mask[order[: scores.numel() - int(0.7 * scores.numel())]] = 1.0
    expected = nn.functional.conv2d(
        images,
        layer.weight * mask.view(layer.weight.shape),
        layer.bias,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
    )
    assert torch.equal(layer(images), expected)


def test_a_masked_convolution_pads_as_the_plain_one() -> None:
    layer = nn.Conv2d(4, 8, 3, padding=2, padding_mode="circular")
    images = torch.randn(2, 4, 9, 9)
    mask_(layer, EdgePopup(0.3), weights=None)
    (_, masked) = masked_layers(layer)[0]
    padded = nn.functional.pad(images, (2, 2, 2, 2), mode="circular")
    assert torch.equal(layer(images), nn.functional.conv2d(padded, layer.weight * masked.mask(), layer.bias))


def test_a_masked_fully_connected_layer_is_the_plain_one_with_the_masked_weight() -> None:
    layer = nn.Linear(20, 7)
    inputs = torch.randn(3, 20)
    mask_(layer, EdgePopup(0.3), weights=None)
    (_, masked) = masked_layers(layer)[0]
    assert torch.equal(layer(inputs), nn.functional.linear(inputs, layer.weight * masked.mask(), layer.bias))


def test_a_masked_resnet_is_the_plain_one_with_the_masked_weights() -> None:
    network = mask_(torchvision.models.resnet18(), EdgePopup(0.3)).eval()
    images = torch.randn(2, 3, 64, 64)
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("scores")}
    for name, layer in masked_layers(network):
        state[f"{name}.weight"] = layer.weight * layer.mask()
    plain = torchvision.models.resnet18().eval()
    assert torch.equal(network(images), functional_call(plain, state, images))


def test_a_mask_follows_scores_that_are_edited_or_loaded() -> None:
    layer = mask_(nn.Linear(4, 1, bias=False), EdgePopup(0.5))
    state = layer.state_dict() | {"scores": torch.tensor([[0.1, -0.4, 0.2, 0.3]])}
    layer.load_state_dict(state)
    (_, masked) = masked_layers(layer)[0]
    assert masked.mask().tolist() == [[False, True, False, True]]
    with torch.no_grad():
        layer.get_parameter("scores")[0, 0] = 0.5
    assert masked.mask().tolist() == [[True, True, False, False]]
    assert torch.equal(layer(torch.eye(4)).flatten() != 0, masked.mask().flatten())


def test_a_masked_network_computes_in_bfloat16_under_autocast_and_keeps_float32_scores() -> None:
    network = mask_(small_network(), EdgePopup(0.5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(torch.randn(2, 3, 4, 4))
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    for scores in scores_for_mask(network).values():
        assert scores.dtype == torch.float32
        assert scores.grad is not None
        assert scores.grad.dtype == torch.float32
        assert scores.grad.any()


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_a_network_of_any_dtype_computes_in_it_with_scores_of_at_least_float32(
    dtype: torch.dtype, kept: torch.dtype
) -> None:
    network = mask_(small_network().to(dtype), EdgePopup(0.5))
    assert {scores.dtype for scores in scores_for_mask(network).values()} == {kept}
    logits = network(torch.randn(2, 3, 4, 4, dtype=dtype))
    assert logits.dtype == dtype
    logits.square().sum().backward()
    assert all(scores.grad is not None and scores.grad.dtype == kept for scores in scores_for_mask(network).values())


# What mask_ changes, and what it leaves.


def test_the_keys_are_the_plain_ones_and_the_scores() -> None:
    plain = torchvision.models.resnet18()
    network = mask_(torchvision.models.resnet18(), EdgePopup(0.3))
    layers = [name for name, module in plain.named_modules() if type(module) in (nn.Conv2d, nn.Linear)]
    assert len(layers) == 21
    assert [name for name, _ in masked_layers(network)] == layers
    assert set(network.state_dict()) == {*plain.state_dict(), *(f"{name}.scores" for name in layers)}


def test_a_stock_state_dict_loads_with_only_the_scores_missing() -> None:
    network = mask_(torchvision.models.resnet18(), EdgePopup(0.3))
    stock = torchvision.models.resnet18().state_dict()
    missing, unexpected = network.load_state_dict(stock, strict=False)
    assert missing == list(scores_for_mask(network))
    assert unexpected == []
    assert torch.equal(network.get_parameter("conv1.weight"), stock["conv1.weight"])


def test_hooks_and_parameters_are_kept() -> None:
    network = small_network()
    parameters = parameters_of(network)
    called: list[str] = []
    network[0].register_forward_pre_hook(lambda *_: called.append("before"))
    network[0].register_forward_hook(lambda *_: called.append("after"))
    assert mask_(network, EdgePopup(0.5)) is network
    network(torch.randn(2, 3, 4, 4))
    assert called == ["before", "after"]
    for name, parameter in parameters.items():
        assert network.get_parameter(name) is parameter
    unmask_(network)(torch.randn(2, 3, 4, 4))
    assert called == ["before", "after"] * 2
    assert all(network.get_parameter(name) is parameter for name, parameter in parameters.items())


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.GroupNorm(2, 8), nn.LayerNorm(5), nn.RMSNorm(5)],
    ids=repr,
)
def test_biases_are_0_norms_neutral_and_only_scores_train(norm: nn.Module) -> None:
    network = randomize_(nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Flatten(), nn.Linear(200, 2)))
    mask_(network, EdgePopup(0.5))
    assert not network.get_parameter("0.bias").any()
    assert not network.get_parameter("3.bias").any()
    for name, parameter in norm.named_parameters():
        assert torch.equal(parameter, torch.full_like(parameter, 1.0 if name == "weight" else 0.0))
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trainable == {"0.scores", "3.scores"}


def test_weights_and_scores_are_those_of_the_seed_and_the_name_of_the_layer() -> None:
    network = mask_(torchvision.models.resnet18(), EdgePopup(0.3), weights="scaled_kaiming_normal", seed=5)
    for name, layer in masked_layers(network):
        shape = layer.weight.shape
        drawn = draw_weights("scaled_kaiming_normal", shape, seed=5, layer=name, density=0.3)
        assert torch.equal(layer.weight, drawn)
        assert torch.equal(network.get_parameter(f"{name}.scores"), draw_scores(shape, seed=5, layer=name))


def test_the_same_seed_gives_the_same_weights_whatever_was_constructed_first() -> None:
    first = nn.Sequential(OrderedDict(a=nn.Conv2d(3, 4, 3), b=nn.Linear(4, 2)))
    second = nn.Sequential(OrderedDict(b=nn.Linear(4, 2), a=nn.Conv2d(3, 4, 3)))
    mask_(first, EdgePopup(0.5), weights="kaiming_normal", seed=3)
    mask_(second, EdgePopup(0.5), weights="kaiming_normal", seed=3)
    assert first.state_dict().keys() == set(second.state_dict())
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_another_seed_gives_other_weights_and_scores() -> None:
    first, second = (mask_(nn.Linear(9, 9), EdgePopup(0.5), seed=seed).state_dict() for seed in (0, 1))
    assert not torch.equal(first["weight"], second["weight"])
    assert not torch.equal(first["scores"], second["scores"])


def test_weights_none_leaves_weights_biases_and_norms_as_they_are() -> None:
    network = randomize_(small_network())
    before = copy.deepcopy(network.state_dict())
    mask_(network, EdgePopup(0.5), weights=None)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    assert {name for name, parameter in network.named_parameters() if parameter.requires_grad} == set(
        scores_for_mask(network)
    )


def test_a_method_that_trains_weights_starts_from_biases_of_the_seed_and_neutral_norms_and_trains_all() -> None:
    network = randomize_(small_network())
    norms = [key for key, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    mask_(network, Dense(), weights="signed_constant", seed=3)
    for name, layer in masked_layers(network):
        assert torch.equal(network.get_parameter(f"{name}.bias"), draw_biases(layer.weight.shape, seed=3, layer=name))
    assert norms
    for name in norms:
        fresh = nn.BatchNorm2d(network.get_parameter(f"{name}.weight").numel()).state_dict()
        assert all(torch.equal(network.state_dict()[f"{name}.{key}"], value) for key, value in fresh.items())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("kept", [0.1, 0.3, 1.0])
def test_the_density_is_what_is_kept_over_what_there_is(kept: float) -> None:
    network = mask_(small_network(), EdgePopup(kept))
    totals = {"0": 3 * 6 * 9, "4": 96 * 5}
    counts = {name: total - int((1 - kept) * total) for name, total in totals.items()}
    assert density(network) == sum(counts.values()) / sum(totals.values())
    assert density(network, per_layer=True) == {name: counts[name] / totals[name] for name in totals}


def test_a_layer_used_twice_is_masked_once() -> None:
    layer = nn.Linear(4, 4)
    network = mask_(nn.Sequential(layer, nn.Tanh(), layer), EdgePopup(0.5))
    inputs = torch.randn(2, 4)
    outputs = network(inputs)
    assert [name for name, _ in masked_layers(network)] == ["0"]
    assert torch.equal(unmask_(network)(inputs), outputs)


def test_statistics_of_other_weights_are_forgotten() -> None:
    network = randomize_(small_network())
    mask_(network, EdgePopup(0.5))
    norm = network.get_submodule("1")
    assert torch.equal(norm.running_mean, torch.zeros(6))  # type: ignore[arg-type]
    assert torch.equal(norm.running_var, torch.ones(6))  # type: ignore[arg-type]


def test_a_whole_number_of_any_kind_is_a_seed_and_nothing_else_is() -> None:
    seeds: list[Any] = [1, True, np.int64(1)]
    drawn = [mask_(small_network(), EdgePopup(0.5), seed=seed).get_parameter("0.weight") for seed in seeds]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    with pytest.raises(TypeError):
        mask_(small_network(), EdgePopup(0.5), seed=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "batches",
    [
        (torch.rand(4, 2), torch.zeros(4, dtype=torch.int64)),
        [(torch.zeros(4, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))],
        [(torch.rand(4, 2), torch.zeros(4))],
        [torch.rand(4, 2)],
    ],
)
def test_batches_that_are_none_are_an_error_and_the_network_stays_as_it_was(batches: Any) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"batches are pairs of images, float and normalised, and labels, int64"):
        mask_(network, SNIP(0.5), batches=batches)
    assert type(network[0]) is nn.Linear


def test_batches_may_come_from_a_loader() -> None:
    loader = DataLoader(TensorDataset(torch.rand(8, 2), torch.arange(8) % 2), batch_size=4)
    network = mask_(nn.Sequential(nn.Linear(2, 2)), SNIP(0.5), weights="kaiming_normal", batches=loader)
    assert density(network) == 0.5


@pytest.mark.parametrize(
    ("method", "message"), [(SNIP(0.5), r"batches=\[\(images"), (SynFlow(0.5), r"input_shape=\(3, 224")]
)
def test_what_a_method_needs_is_asked_for(method: Method, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mask_(nn.Sequential(nn.Linear(2, 2)), method)


def test_a_shape_that_a_network_cannot_take_is_an_error() -> None:
    with pytest.raises(UserError, match=r"Sequential cannot take an image of shape \(3,\)"):
        mask_(nn.Sequential(nn.Linear(2, 2)), SynFlow(0.5), input_shape=(3,))
