"""The output of a masked network, and the changes that ``mask_`` makes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from masked_networks import IMAGES, masked_network, randomize_, scores_of, small_network
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from lightning_subnets import (
    SNIP,
    Dense,
    EdgePopup,
    Magnitude,
    Method,
    PartiallyFrozen,
    SignedSupermask,
    Supermask,
    SynFlow,
    UserError,
    density,
    mask_,
    masked_weights,
    raw_weight,
    unmask_,
)
from lightning_subnets.masking.initialization import draw_biases, draw_scores, draw_weights, fans, stream_of
from lightning_subnets.masking.method import ScoredWeight

CONVS: list[dict[str, Any]] = [
    {"groups": 4},
    {"dilation": 2, "padding": "same"},
    {"stride": (1, 2), "padding": (0, 2), "dilation": (2, 1), "groups": 2, "bias": False},
    {"padding": 2, "padding_mode": "circular"},
]

# The output of a masked network.


@pytest.mark.parametrize("options", CONVS, ids=str)
def test_a_masked_convolution_is_the_plain_one_with_the_masked_weight(options: dict[str, Any]) -> None:
    layer = mask_(nn.Conv2d(4, 8, 3, **options), EdgePopup(0.3), weights=None)
    images = torch.randn(2, 4, 9, 9)
    scores, weight = layer.get_parameter("scores"), raw_weight(layer)
    order = scores.detach().abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(scores.numel())
    mask[order[: scores.numel() - int(0.7 * scores.numel())]] = 1.0
    state = {**layer.state_dict(), "weight": weight * mask.view(weight.shape)}
    state.pop("scores")
    assert torch.equal(layer(images), functional_call(nn.Conv2d(4, 8, 3, **options), state, images))


def test_under_autocast_a_network_computes_in_bfloat16_and_keeps_float32_scores() -> None:
    network = masked_network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(IMAGES)
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    for scores in scores_of(network).values():
        assert scores.grad is not None
        assert scores.dtype == scores.grad.dtype == torch.float32
        assert scores.grad.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_network_of_any_dtype_computes_in_it_with_scores_of_at_least_float32(dtype: torch.dtype) -> None:
    network = mask_(small_network().to(dtype), EdgePopup(0.5))
    logits = network(IMAGES.to(dtype))
    assert logits.dtype == dtype
    logits.square().sum().backward()
    for scores in scores_of(network).values():
        assert scores.grad is not None
        assert scores.dtype == scores.grad.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


# The changes that mask_ makes.


def test_the_keys_are_the_plain_ones_and_the_scores_and_a_stock_state_dict_loads() -> None:
    network = mask_(torchvision.models.resnet18(), EdgePopup(0.3))
    plain = torchvision.models.resnet18()
    layers = [name for name, module in plain.named_modules() if type(module) in (nn.Conv2d, nn.Linear)]
    assert len(layers) == 21
    assert list(masked_weights(network)) == [f"{name}.weight" for name in layers]
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert missing == [f"{name}.scores" for name in layers]
    assert unexpected == []
    assert torch.equal(network.state_dict()["conv1.weight"], plain.state_dict()["conv1.weight"])


@pytest.mark.parametrize("methods", [*permutations([EdgePopup(0.5), Magnitude(0.5)])], ids=str)
def test_the_scores_of_a_method_that_trains_them_are_no_masks(methods: tuple[Method, Method]) -> None:
    network, other = (mask_(nn.Sequential(nn.Linear(4, 2)), method) for method in methods)
    with pytest.raises(UserError, match=r"0\.scores is torch\.\w+ in the state dict and torch\.\w+ in this network"):
        network.load_state_dict(other.state_dict())
    assert density(network) == 0.5


def test_a_mask_that_was_cast_is_still_a_mask() -> None:
    network, other = (mask_(nn.Sequential(nn.Linear(4, 2)), Magnitude(density)) for density in (0.5, 0.25))
    network.load_state_dict({name: value.half() for name, value in other.state_dict().items()})
    assert torch.equal(network[0].scores, other[0].scores)  # type: ignore[arg-type]


def test_hooks_and_parameters_are_kept() -> None:
    network = small_network()
    parameters = dict(network.named_parameters())
    called: list[str] = []
    network[0].register_forward_pre_hook(lambda *_: called.append("before"))
    network[0].register_forward_hook(lambda *_: called.append("after"))
    assert mask_(network, EdgePopup(0.5)) is network
    network(IMAGES)
    assert called == ["before", "after"]
    assert parameters.items() <= dict(network.named_parameters()).items()
    unmask_(network)(IMAGES)
    assert called == ["before", "after"] * 2
    assert parameters.items() <= dict(network.named_parameters()).items()


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
    for name, value in norm.state_dict().items():
        assert torch.equal(value, torch.full_like(value, 1 if name in ("weight", "running_var") else 0))
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trainable == {"0.scores", "3.scores"}


def test_weights_and_scores_are_those_of_the_seed_and_the_name_of_the_layer() -> None:
    first = nn.Sequential(OrderedDict(a=nn.Conv2d(3, 4, 3), b=nn.Linear(4, 2)))
    second = nn.Sequential(OrderedDict(b=nn.Linear(4, 2), a=nn.Conv2d(3, 4, 3)))
    for network in (first, second):
        mask_(network, EdgePopup(0.3), weights="scaled_kaiming_normal", seed=5)
        for name, layer in masked_weights(network).items():
            shape = layer.weight.shape
            drawn = draw_weights("scaled_kaiming_normal", shape, seed=5, stream=stream_of(name), density=0.3)
            assert torch.equal(layer.weight, drawn)
            assert layer.scores is not None
            assert torch.equal(layer.scores, draw_scores(shape, seed=5, stream=stream_of(name)))


def test_weights_none_leaves_weights_biases_and_norms_as_they_are() -> None:
    network = randomize_(small_network())
    before = copy.deepcopy(network.state_dict())
    mask_(network, EdgePopup(0.5), weights=None)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    assert {name for name, parameter in network.named_parameters() if parameter.requires_grad} == {*scores_of(network)}


def test_a_method_that_trains_weights_starts_from_biases_of_the_seed_and_neutral_norms_and_trains_all() -> None:
    network = mask_(randomize_(small_network()), Dense(), weights="signed_constant", seed=3)
    for name, layer in masked_weights(network).items():
        bias = network.get_parameter(f"{stream_of(name)}.bias")
        fan_in = fans(layer.weight.shape)[0]
        assert torch.equal(bias, draw_biases(bias.shape, fan_in=fan_in, seed=3, stream=stream_of(name)))
    for key, value in nn.BatchNorm2d(6).state_dict().items():
        assert torch.equal(network.state_dict()[f"1.{key}"], value)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_bias_is_drawn_beside_a_weight_of_that_name_alone() -> None:
    module = nn.Module()
    module.weight_a, module.bias = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3))
    mask_(module, Dense(), weights="kaiming_normal")
    assert torch.equal(module.bias, torch.zeros(3))


@pytest.mark.parametrize("method", [EdgePopup(0.5), Magnitude(0.5)], ids=repr)
def test_frozen_parameters_lose_the_gradients_of_the_network_before_it_was_masked(method: Method) -> None:
    network = small_network()
    network(IMAGES).sum().backward()
    before = {parameter: parameter.grad for parameter in network.parameters()}
    mask_(network, method)
    for parameter, gradient in before.items():
        assert parameter.grad is (gradient if parameter.requires_grad else None)


@pytest.mark.parametrize("kept", [0.1, 0.3, 1.0])
def test_the_density_is_the_number_kept_over_the_total(kept: float) -> None:
    network = mask_(small_network(), EdgePopup(kept))
    totals = {"0.weight": 3 * 6 * 9, "3.weight": 36, "6.weight": 96 * 5}
    counts = {name: total - int((1 - kept) * total) for name, total in totals.items()}
    assert density(network) == sum(counts.values()) / sum(totals.values())
    assert density(network, per_weight=True) == {name: counts[name] / totals[name] for name in totals}


@pytest.mark.parametrize("method", [SignedSupermask(), Supermask(), EdgePopup(0.5, allocation="global")], ids=repr)
def test_a_repr_states_no_density_if_scores_decide_it(method: Method) -> None:
    layer = mask_(nn.Linear(4, 4), method)
    assert repr(layer) == "MaskedLinear(in_features=4, out_features=4, bias=True, density by scores)"
    assert repr(masked_weights(layer)["weight"]) == "MaskedWeight('weight', (4, 4), density by scores)"


def test_a_layer_used_twice_is_masked_once() -> None:
    layer = nn.Linear(4, 4)
    network = mask_(nn.Sequential(layer, nn.Tanh(), layer), EdgePopup(0.5))
    inputs = torch.randn(2, 4)
    outputs = network(inputs)
    assert list(masked_weights(network)) == ["0.weight"]
    assert torch.equal(unmask_(network)(inputs), outputs)


def test_an_integer_of_any_type_is_a_seed_and_nothing_else_is() -> None:
    seeds: list[Any] = [1, True, np.int64(1)]
    drawn = [masked_network(seed).state_dict()["0.weight"] for seed in seeds]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    with pytest.raises(TypeError):
        mask_(small_network(), EdgePopup(0.5), seed=1.0)  # type: ignore[arg-type]


# The data that a method chooses its masks from.


@pytest.mark.parametrize(
    "batches",
    [
        (torch.rand(4, 2), torch.zeros(4, dtype=torch.int64)),
        [(torch.zeros(4, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))],
        [(torch.rand(4, 2), torch.zeros(4))],
        [torch.rand(4, 2)],
    ],
)
def test_batches_of_another_form_are_an_error_and_the_network_stays_unchanged(batches: Any) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"batches are pairs of images, float and normalised, and labels, int64"):
        mask_(network, SNIP(0.5), batches=batches)
    assert type(network[0]) is nn.Linear


def test_batches_may_come_from_a_loader() -> None:
    loader = DataLoader(TensorDataset(torch.rand(8, 2), torch.arange(8) % 2), batch_size=4)
    network = mask_(nn.Sequential(nn.Linear(2, 2)), SNIP(0.5), weights="kaiming_normal", batches=loader)
    assert density(network) == 0.5


@pytest.mark.parametrize("form", [Tensor.float, Tensor.byte, lambda kept: kept[:, :1]], ids=["float", "uint8", "shape"])
def test_masks_that_a_method_returns_in_another_form_are_an_error(form: Callable[[Tensor], Tensor]) -> None:
    class Other(EdgePopup):
        def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
            return [form(mask) for mask in super().masks(weights)]

    network = mask_(nn.Sequential(nn.Linear(4, 2)), Other(0.5))
    with pytest.raises(UserError, match=r"Other.masks\(\) returns .*'weight', \(2, 4\), .*: return torch.bool"):
        network(torch.ones(1, 4))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (SNIP(0.5), {}, r"batches=\[\(images"),
        (SynFlow(0.5), {}, r"input_shape=\(3, 224"),
        (SynFlow(0.5), {"input_shape": (3,)}, r"Sequential cannot take an image of shape \(3,\)"),
    ],
)
def test_data_that_a_method_lacks_or_cannot_use_are_an_error(
    method: Method, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        mask_(nn.Sequential(nn.Linear(2, 2)), method, **options)


@pytest.mark.parametrize("method", [EdgePopup(0.5), PartiallyFrozen(0.5), Magnitude(0.5), SNIP(0.5), SynFlow(0.5)])
def test_a_network_that_is_masked_in_inference_mode_can_be_trained(method: Method) -> None:
    network, batches = nn.Sequential(nn.Linear(4, 4)), [(torch.ones(1, 4), torch.tensor([0]))]
    with torch.inference_mode():
        mask_(network, method, batches=batches)
    network(torch.ones(1, 4)).sum().backward()
    (weight,) = masked_weights(network).values()
    trained = weight.scores if method.trainable == "scores" else weight.weight
    assert trained is not None
    assert trained.grad is not None
