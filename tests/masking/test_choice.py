"""Which weights are masked, at which density, and what becomes of the other parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_subnets import (
    SNIP,
    Biprop,
    Dense,
    EdgePopup,
    FixedMask,
    Magnitude,
    Method,
    UserError,
    density,
    mask_,
    masked_weights,
    unmask_,
)
from lightning_subnets.masking.initialization import draw_table, draw_weights, stream_of


class Block(nn.Module):
    """A block with each kind of parameter that networks of the field have beside weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.act = nn.PReLU(6)
        self.embed = nn.Embedding(5, 6)
        self.gamma = nn.Parameter(torch.full((6,), 1e-6))
        self.skipinit_gain = nn.Parameter(torch.zeros(()))
        self.gain = nn.Parameter(torch.full((6, 1, 1), 3.0))
        self.q_bias = nn.Parameter(torch.ones(6))
        self.beta = nn.Parameter(torch.ones(1, 1, 6))
        self.logit_scale = nn.Parameter(torch.full((2, 1, 1), 2.3))
        self.temperature = nn.Parameter(torch.tensor(4.0))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 6))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.odd = nn.Parameter(torch.full((6,), 7.0))
        self.other = nn.Parameter(torch.rand(6))


EXPECTED: dict[str, float | str] = {
    "norm.weight": 1.0,
    "norm.bias": 0.0,
    "act.weight": 0.25,
    "embed.weight": "drawn",
    "gamma": 1.0,
    "skipinit_gain": 1.0,
    "gain": 1.0,
    "q_bias": 0.0,
    "beta": 0.0,
    "logit_scale": 2.3,
    "temperature": 4.0,
    "cls_token": "drawn",
    "relative_position_bias_table": "drawn",
    "odd": 7.0,
    "other": "drawn",
    "fc.bias": 0.0,
}


def test_every_other_parameter_has_the_value_that_keeps_the_network_alive() -> None:
    network = mask_(Block(), EdgePopup(0.5), seed=3)
    state = dict(network.named_parameters())
    assert {name for name in state if not name.startswith("fc.")} | {"fc.bias"} == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        if isinstance(expected, str):
            value = draw_table(state[name].shape, seed=3, stream=stream_of(name))
            assert 0 < value.std() < 0.05
        else:
            value = torch.full_like(state[name], expected)
        assert torch.equal(state[name], value), name
    assert [name for name, each in state.items() if each.requires_grad] == ["fc.scores"]


@pytest.mark.parametrize("method", [EdgePopup(0.5), Magnitude(0.5)], ids=repr)
def test_a_matrix_that_only_its_name_keeps_from_being_masked_is_named_in_a_warning(method: Method) -> None:
    network = Block()
    network.W, network.weights = nn.Parameter(torch.rand(6, 6)), nn.Parameter(torch.rand(2, 6, 6))
    network.kernels = nn.ParameterList([nn.Parameter(torch.rand(6, 6))])
    network.pos_embeds = nn.ParameterList([nn.Parameter(torch.rand(6, 6))])
    network.equal, network.lora_b = nn.Parameter(torch.ones(6, 6)), nn.Parameter(torch.zeros(6, 6))
    network.temperature, network.empty = nn.Parameter(torch.zeros(6, 6)), nn.Parameter(torch.zeros(0, 6, 6))
    network.projection = nn.Parameter(torch.rand(6, 6), requires_grad=False)
    names = ["W", "weights", "lora_b", "kernels.0"]
    with pytest.warns(UserWarning, match=r"W, weights, lora_b, kernels.0 of Block stay .* in also_mask$") as caught:
        mask_(copy.deepcopy(network), method)
    assert len(caught) == 1
    mask_(network, method, also_mask=names, keep_dense=["W"])
    assert masked_weights(network).keys() == {"weights", "lora_b", "kernels.0", "fc.weight"}


def tied(layer: nn.Embedding) -> nn.Sequential:
    network = nn.Sequential(layer, nn.Linear(4, 5, bias=False), nn.Linear(5, 4))
    network[1].weight = layer.weight
    return network


def test_the_padding_row_of_an_embedding_stays_0() -> None:
    for table in (nn.Embedding(5, 4, padding_idx=2), nn.EmbeddingBag(5, 4, padding_idx=2)):
        network = mask_(nn.Sequential(table, nn.Linear(4, 3)), EdgePopup(0.5))
        assert torch.equal(table.weight.any(dim=1), torch.arange(5) != 2)
        if isinstance(table, nn.Embedding):
            assert not network[0](torch.tensor([2])).any()
    network = mask_(tied(nn.Embedding(5, 4, padding_idx=2)), EdgePopup(0.5), keep_dense=["0.weight"])
    assert torch.equal(network.get_parameter("0.weight").any(dim=1), torch.arange(5) != 2)


def test_an_embedding_with_a_padding_row_is_masked_only_if_it_keeps_its_numbers() -> None:
    network = tied(nn.Embedding(5, 4, padding_idx=2))
    with pytest.raises(UserError, match=r"'0\.weight' belongs to an Embedding with padding_idx = 2.*keep_dense="):
        mask_(network, EdgePopup(0.5), also_mask=["0"])
    mask_(network, EdgePopup(0.5), weights=None, also_mask=["0"])
    assert not network[0](torch.tensor([2])).any()


def test_pretrained_numbers_stay_for_a_method_that_trains_weights() -> None:
    network = Block()
    before = copy.deepcopy(network.state_dict())
    mask_(network, Magnitude(0.5))
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    assert density(network) == 0.5
    assert all(each.requires_grad for name, each in network.named_parameters() if name != "fc.scores")


def convs() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 10))
    )


def test_a_weight_that_stays_dense_is_drawn_and_frozen_like_the_others() -> None:
    network = mask_(convs(), EdgePopup(0.3), weights="scaled_kaiming_normal", keep_dense=["0"])
    assert list(masked_weights(network)) == ["2.0.weight", "2.2.weight"]
    weight = dict(network.named_parameters())["0.weight"]
    assert torch.equal(weight, draw_weights("kaiming_normal", weight.shape, seed=0, stream="0"))
    assert not weight.requires_grad
    assert type(network.get_submodule("0")) is nn.Conv2d


def test_the_last_pattern_that_matches_gives_the_density() -> None:
    network = mask_(convs(), EdgePopup(0.3), densities={"*": 0.5, "2.*": 0.25, "2.2.weight": 1.0})
    assert density(network, per_weight=True) == {"0.weight": 0.5, "2.0.weight": 0.25, "2.2.weight": 1.0}


def test_a_scaled_weight_is_scaled_by_its_own_density() -> None:
    network = mask_(convs(), EdgePopup(0.3), weights="scaled_signed_constant", densities={"0": 0.5})
    first, second = list(masked_weights(network).values())[:2]
    assert first.weight.abs().max() == pytest.approx((2 / 27 / 0.5) ** 0.5)
    assert second.weight.abs().max() == pytest.approx((2 / 36 / 0.3) ** 0.5)


def test_a_weight_of_which_nothing_is_kept_is_not_scaled() -> None:
    layers = nn.Linear(20, 5, bias=False), nn.Linear(5, 20, bias=False)
    network = mask_(nn.Sequential(*layers), EdgePopup(0.005, allocation="equal"), weights="scaled_signed_constant")
    assert density(network, per_weight=True) == {"0.weight": 0.01, "1.weight": 0.0}
    sizes = [float(each.weight.abs().max()) for each in masked_weights(network).values()]
    assert sizes == pytest.approx([(2 / 20 / 0.005) ** 0.5, (2 / 5) ** 0.5])


def test_an_embedding_is_masked_if_it_is_named() -> None:
    network = mask_(Block(), EdgePopup(0.5), also_mask=["embed", "cls_token"])
    assert list(masked_weights(network)) == ["cls_token", "fc.weight", "embed.weight"]
    assert (network.get_submodule("embed")(torch.arange(5)) == 0).sum() == 15


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing dense": (lambda: mask_(convs(), EdgePopup(0.5), keep_dense=["head.*"]), r"'head\.\*'.* 0\.weight, 2\.0\."),
    "no density": (lambda: mask_(convs(), EdgePopup(0.5), densities={"fc": 0.1}), "densities: no weight matches 'fc'"),
    "a module's name": (lambda: mask_(convs(), EdgePopup(0.5), keep_dense=["2"]), r"'2'; .* Did you mean '2\.\*'\?"),
    "no other": (lambda: mask_(convs(), EdgePopup(0.5), also_mask=["token"]), "also_mask: no weight matches 'token'"),
    "a string": (lambda: mask_(convs(), EdgePopup(0.5), keep_dense="0"), r"give a list of patterns, \['0'\]"),
    "a vector": (lambda: mask_(convs(), EdgePopup(0.5), also_mask=["0.bias"]), r"0\.bias has shape \(4,\)"),
    "everything": (lambda: mask_(convs(), EdgePopup(0.5), keep_dense=["*"]), "has no weight to mask"),
    "too dense": (lambda: mask_(convs(), EdgePopup(0.5), densities={"0": 1.5}), r"density = 1\.5 is outside"),
    "its own counts": (lambda: mask_(convs(), Magnitude(0.5), densities={"0": 0.1}), "Magnitude decides itself"),
    "an empty name": (lambda: mask_(convs(), EdgePopup(0.5), weights=""), "unknown weight distribution ''"),
    "no masks": (lambda: mask_(convs(), Dense(), densities={"0": 0.1}), "Dense decides itself"),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_choice_that_cannot_be_made_is_an_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


class Failing(Magnitude):
    """A method that fails late: its weights are drawn and its masks are installed."""

    def prune_(self, network: nn.Module, data: Any) -> None:
        raise KeyboardInterrupt


class FailingAtTheEnd(EdgePopup):
    def initial_scores(self, shape: torch.Size, *, seed: int, stream: str) -> Tensor:
        if stream == "2.2":
            raise RuntimeError("no memory")
        return super().initial_scores(shape, seed=seed, stream=stream)


def broken_loader() -> Iterator[tuple[Tensor, Tensor]]:
    yield torch.full((2, 3, 5, 5), torch.nan), torch.tensor([0, 1])


FAILURES: dict[str, tuple[Method, dict[str, Any], type[BaseException]]] = {
    "interrupted": (Failing(0.5), {"weights": "kaiming_normal"}, KeyboardInterrupt),
    "midway": (FailingAtTheEnd(0.5), {}, RuntimeError),
    "no seed": (EdgePopup(0.5), {"seed": None}, TypeError),
    "images of NaN": (SNIP(0.5), {"batches": broken_loader(), "weights": "kaiming_normal"}, UserError),
}


@pytest.mark.parametrize(("method", "options", "error"), FAILURES.values(), ids=FAILURES)
def test_after_any_failure_the_network_is_as_it_was(
    method: Method, options: dict[str, Any], error: type[BaseException]
) -> None:
    network = convs()
    network.register_buffer("expanded", torch.ones(1).expand(8))
    network.get_parameter("0.bias").requires_grad_(False)
    hook = network.register_forward_pre_hook(lambda *_: None)
    gradients = {name: torch.ones_like(each) for name, each in network.named_parameters()}
    for name, each in network.named_parameters():
        each.grad = gradients[name]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in network.named_modules()}
    classes = [type(module) for module in network.modules()]
    with pytest.raises(error):
        mask_(network, method, **options)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    assert all(each.grad is gradients[name] for name, each in network.named_parameters())
    assert [name for name, each in network.named_parameters() if not each.requires_grad] == ["0.bias"]
    assert [type(module) for module in network.modules()] == classes
    assert {name: set(vars(module)) for name, module in network.named_modules()} == attributes
    assert list(network._forward_pre_hooks) == [hook.id]


def test_unmasking_gives_back_which_parameters_were_trained() -> None:
    network = convs()
    network.get_parameter("0.weight").requires_grad_(False)
    unmask_(mask_(network, Biprop(0.5)))
    assert [name for name, each in network.named_parameters() if not each.requires_grad] == ["0.weight"]
    assert "_trained_before_masking" not in vars(network)


def test_a_wrapper_does_not_change_the_draws() -> None:
    networks: list[Any] = [convs(), torch.compile(convs()), nn.ModuleDict({"module": convs()})]
    drawn = [
        [weight.weight for weight in masked_weights(mask_(network, EdgePopup(0.5))).values()] for network in networks
    ]
    for other in drawn[1:]:
        assert all(torch.equal(first, second) for first, second in zip(drawn[0], other, strict=True))


def test_a_method_a_masked_layer_and_a_masked_weight_show_their_density() -> None:
    network = mask_(convs(), EdgePopup(0.3), densities={"2.2": 0.1})
    assert repr(EdgePopup(0.3)) == "EdgePopup(density=0.3, absolute=True, allocation='uniform')"
    assert "MaskedConv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), density=0.306)" in repr(network)
    assert "MaskedLinear(in_features=4, out_features=10, bias=True, density=0.1)" in repr(network)
    pruned = mask_(nn.Sequential(nn.Linear(4, 2)), FixedMask({"0.weight": torch.eye(2, 4) > 0}))
    assert "density=0.25" in repr(pruned)
    assert "MaskedLinear" in repr(pruned.to("meta"))
    assert repr(masked_weights(network)["2.2.weight"]) == "MaskedWeight('weight', (10, 4), density=0.1)"


def test_swapped_arguments_are_one_line_without_the_whole_network() -> None:
    with pytest.raises(UserError) as error:
        mask_(EdgePopup(0.5), convs())  # type: ignore[type-var, arg-type]
    assert str(error.value) == (
        "a Sequential is not a method: pass the network first, and then an instance: EdgePopup(density=0.3)"
    )
