"""A weight that is read several times in a pass, that several modules share, or that is edited."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from masked_networks import IMAGES, loss_of, masked_network, small_network
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from lightning_subnets import (
    DNW,
    EdgePopup,
    Magnitude,
    Method,
    Supermask,
    UserError,
    invalidate_,
    mask_,
    masked_weights,
    masks,
    raw_weight,
    unmask_,
)
from lightning_subnets.masking import is_masked, temporarily_unmasked


class Twice(nn.Module):
    """A network that reads a weight three times in a pass, twice by calling the layer."""

    def __init__(self, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.layer, self.checkpointed, self.read = nn.Linear(16, 16), checkpointed, list[Tensor]()

    def inner(self, x: Tensor) -> Tensor:
        self.read.append(self.layer.weight.detach().clone())
        result: Tensor = self.layer(self.layer(x))
        return result

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.inner, x, use_reentrant=False) if self.checkpointed else self.inner(x)
        return result


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_drawn_mask_is_the_same_for_all_reads_in_a_pass_and_another_in_the_next(checkpointed: bool) -> None:
    network = mask_(Twice(checkpointed=checkpointed), Supermask(0.5))
    assert isinstance(network, Twice)
    x = torch.randn(2, 16, requires_grad=True)
    network(x).sum().backward()
    network(x).sum().backward()
    assert len(network.read) == (4 if checkpointed else 2)
    used = network.read[::2] if checkpointed else network.read
    if checkpointed:  # the backward pass computes the forward pass again
        assert torch.equal(network.read[0], network.read[1])
    assert not torch.equal(used[0], used[1])
    plain = unmask_(network)
    assert not plain._forward_pre_hooks


class Functional(nn.Module):
    """A network that reads the weight of a layer without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.layer.weight)


def tied() -> nn.Sequential:
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    return network


def test_a_tied_weight_has_one_set_of_scores() -> None:
    masked = mask_(tied(), EdgePopup(0.5), weights="kaiming_normal")
    assert list(masked_weights(masked)) == ["0.weight"]
    assert masked.get_submodule("0").scores is masked.get_submodule("2").scores
    x = torch.randn(3, 4)
    outputs = masked(x)
    outputs.sum().backward()
    mask, weight = masks(masked)["0.weight"], raw_weight(masked.get_submodule("0"))
    biases = [masked.get_parameter(name) for name in ("0.bias", "2.bias")]
    expected = functional.linear(functional.linear(x, weight * mask, biases[0]).tanh(), weight * mask, biases[1])
    assert torch.equal(outputs, expected)
    assert torch.equal(copy.deepcopy(masked)(x), outputs)
    plain = unmask_(masked)
    assert plain.get_submodule("0").weight is plain.get_submodule("2").weight
    assert torch.equal(plain(x), outputs)


@pytest.mark.parametrize("edit", [lambda weight: weight.zero_(), nn.init.ones_, lambda weight: weight[0].fill_(1.0)])
def test_an_edit_of_an_effective_weight_is_an_error_that_names_the_parameter(edit: Callable[[Tensor], object]) -> None:
    network = masked_network()
    module = network.get_submodule("0")
    before = network(IMAGES)
    with torch.no_grad():
        edit(module.weight)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(UserError, match=r"edit ls\.raw_weight\(module, 'weight'\)"):
            network(IMAGES)
    invalidate_(network)
    assert torch.equal(network(IMAGES), before)
    with torch.no_grad():
        edit(raw_weight(module))
    assert not torch.equal(network(IMAGES), before)


def init_(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.ones_(module.weight)


LOSING: dict[str, Callable[[nn.Module], object]] = {
    "a move": lambda network: network.double(),
    "a move of a module around it": lambda network: nn.Sequential(network).to(torch.device("cpu")),
    "a step": lambda network: torch.optim.SGD(network.parameters(), lr=1.0).step(),
    "a read of another weight": lambda network: network.get_submodule("6").weight,
    "a copy": copy.deepcopy,
    "a file": pickle.dumps,
    "unmask_": unmask_,
    "temporarily_unmasked": lambda network: temporarily_unmasked(network).__enter__(),
}


@pytest.mark.parametrize("lose", LOSING.values(), ids=LOSING)
def test_nothing_but_invalidate_loses_an_edit_of_an_effective_weight(lose: Callable[[nn.Module], object]) -> None:
    network = mask_(small_network(), EdgePopup(0.4, allocation="global"))
    network(IMAGES)
    network.apply(init_)
    with torch.no_grad():
        network.get_parameter("6.scores").add_(1.0)  # the masks of the whole group are outdated
    with pytest.raises(UserError, match=r"edit ls\.raw_weight\(module, 'weight'\)"):
        lose(network)
    assert is_masked(network)
    invalidate_(network)
    lose(network)


def test_reset_parameters_cannot_edit_the_effective_weight_unnoticed() -> None:
    layer = mask_(nn.Linear(4, 4), EdgePopup(0.5))
    layer(torch.ones(1, 4))
    with pytest.raises(UserError, match="raw_weight"):
        layer.reset_parameters()


def test_fx_refuses_to_record_a_mask_and_a_traced_network_that_is_masked_follows_its_scores() -> None:
    network, x = mask_(Functional(), EdgePopup(0.5)), torch.randn(3, 4)
    with pytest.raises(UserError, match=r"torch\.fx would record the weight of a Linear with its present mask"):
        torch.fx.symbolic_trace(network)
    assert torch.equal(make_fx(network)(x)(x), network(x))
    assert torch.equal(torch.export.export(network, (x,)).module()(x), network(x))
    traced = torch.fx.symbolic_trace(unmask_(network))
    assert torch.equal(traced(x), network(x))
    mask_(traced, EdgePopup(0.5))
    before = traced(x)
    with torch.no_grad():
        traced.get_parameter("layer.scores").copy_(torch.rand(4, 4))
    assert not torch.equal(traced(x), before)
    assert torch.equal(traced(x), unmask_(copy.deepcopy(traced))(x))


def test_the_copies_of_data_parallel_are_an_error_that_names_distributed_data_parallel() -> None:
    with pytest.raises(UserError, match=r"use nn\.parallel\.DistributedDataParallel"):
        masked_network().get_submodule("0")._replicate_for_data_parallel()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("method", [DNW(0.5), Magnitude(0.5)], ids=repr)
def test_trained_weights_are_used_after_a_step_that_leaves_no_trace(method: Method) -> None:
    network = mask_(small_network(), method, weights="kaiming_normal").eval()
    trained = [each for each in network.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, fused=True)
    for _ in range(2):
        torch.autograd.backward(loss_of(network))
        optimizer.step()
        assert torch.equal(network(IMAGES), unmask_(copy.deepcopy(network))(IMAGES))


@pytest.mark.parametrize("method", [EdgePopup(0.5), EdgePopup(0.5, allocation="global"), DNW(0.5)], ids=repr)
def test_numbers_that_move_to_another_place_of_their_memory_are_used(method: Method) -> None:
    network = mask_(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)), method, weights="kaiming_normal")
    x, trained = torch.randn(2, 6), [each for each in network.parameters() if each.requires_grad]

    def check() -> None:
        outputs, plain = network(x), unmask_(copy.deepcopy(network))
        assert torch.equal(outputs, plain(x))

    for row in torch.randn(3, sum(each.numel() for each in trained)):  # an evolution strategy's population
        nn.utils.vector_to_parameters(row, trained)
        check()
    for parameter in trained:
        if parameter.dim() == 2:
            parameter.data = parameter.data.T
            check()


@pytest.mark.parametrize("method", [EdgePopup(0.5), EdgePopup(0.5, allocation="global")], ids=repr)
def test_what_another_process_writes_to_shared_memory_is_used(method: Method) -> None:
    network = mask_(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)), method).share_memory()
    x, scores = torch.randn(2, 6), network.get_parameter("2.scores")
    for _ in range(3):
        outputs, plain = network(x), unmask_(copy.deepcopy(network))
        assert torch.equal(outputs, plain(x))
        scores.detach().numpy()[...] = torch.rand(6, 6)  # as another process: without a new version


@pytest.mark.parametrize("name", ["weight", "scores", "bias"])
def test_a_parametrization_on_a_masked_layer_is_an_error_that_damages_nothing(name: str) -> None:
    layer, x = mask_(nn.Linear(4, 4), EdgePopup(0.5)), torch.ones(1, 4)
    before = layer(x)
    with pytest.raises(
        UserError, match=rf"'{name}' belongs to a masked Linear: call unmask_.* before a parametrizatio"
    ):
        parametrize.register_parametrization(layer, name, nn.Identity())
    torch.optim.SGD([nn.Parameter(torch.ones(1))]).step()  # of another network
    assert torch.equal(layer.double().float()(x), before)
    assert type(unmask_(layer)) is nn.Linear


def test_a_weight_that_was_removed_stops_no_optimizer_of_another_network() -> None:
    layer = mask_(nn.Linear(4, 4), EdgePopup(0.5))
    layer(torch.ones(1, 4))
    del layer._parameters["weight"]  # as torch.nn.utils.prune does
    torch.optim.SGD([nn.Parameter(torch.ones(1))]).step()
    with pytest.raises(UserError, match=r"'weight' of a Linear was masked and is no longer a parameter"):
        layer(torch.ones(1, 4))
