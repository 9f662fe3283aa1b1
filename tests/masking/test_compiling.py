"""Masked networks under torch.compile: one graph, the same results, never outdated masks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from masked_networks import IMAGES, loss_of, masked_network, scores_of
from torch import Tensor, library, nn

from lightning_subnets import EdgePopup, UserError, masked_weights
from lightning_subnets.masking import MaskedWeight, selection
from lightning_subnets.masking.cached_weight import compile_, refresh_
from lightning_subnets.training.module import SubnetModule


@pytest.fixture(autouse=True)
def _forget_other_graphs() -> None:
    torch.compiler.reset()


def layers_of(network: nn.Module) -> list[MaskedWeight]:
    return list(masked_weights(network).values())


def step_(network: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss = loss_of(network)
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item()


def edit_(network: nn.Module) -> None:
    with torch.no_grad():
        for scores in scores_of(network).values():
            scores.copy_(torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.thorough
def test_torch_compile_makes_one_graph_that_follows_every_change_of_the_scores() -> None:
    eager = masked_network()
    network = copy.deepcopy(eager)
    compiled: Any = torch.compile(network, fullgraph=True, backend="aot_eager")
    optimizers = [torch.optim.SGD(scores_of(each).values(), lr=1.0, fused=True) for each in (eager, network)]
    for _ in range(3):
        losses = [step_(each, optimizer) for each, optimizer in zip((eager, compiled), optimizers, strict=True)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        for each in (eager, network):
            edit_(each)
        for each in (eager, compiled):
            each.eval()
        with torch.no_grad():
            torch.testing.assert_close(compiled(IMAGES), eager(IMAGES))
        for each in (eager, compiled):
            each.train()
        eager.load_state_dict(masked_network(seed=3).state_dict())
        network.load_state_dict(eager.state_dict())


@pytest.mark.thorough
def test_a_network_compiled_with_its_masks_outside_chooses_none_in_its_graph() -> None:
    eager = masked_network()
    network = copy.deepcopy(eager)
    compile_(network, layers_of(network))
    optimizers = [torch.optim.SGD(scores_of(each).values(), lr=1.0, fused=True) for each in (eager, network)]
    counters = torch._dynamo.utils.counters
    counters.clear()
    for _ in range(3):
        refresh_(layers_of(network))
        assert step_(eager, optimizers[0]) == pytest.approx(step_(network, optimizers[1]), rel=1e-5)
        for each in (eager, network):
            edit_(each)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    # A selection in the graph would notice an edit; here only refresh_ does.
    before = network(IMAGES)
    edit_(network)
    with torch.no_grad():
        for layer in layers_of(network):
            layer.scores.neg_().add_(1.0)  # type: ignore[union-attr]
    assert torch.equal(network(IMAGES), before)
    refresh_(layers_of(network))
    assert not torch.equal(network(IMAGES), before)
    again: Any = torch.compile(copy.deepcopy(network), backend="aot_eager")  # a copy is not compiled
    torch.testing.assert_close(again(IMAGES), network(IMAGES))


def test_the_selection_is_a_proper_operator_of_a_graph() -> None:
    scores = torch.randn(6, 4, 3, 5)
    layouts = [scores, scores.to(memory_format=torch.channels_last), scores.transpose(0, 1)]
    library.opcheck(selection._in_a_graph, ([*layouts, scores[0]], [7, 7, 7, 0], True))


class Network(nn.Sequential):
    """A network of its own class, because torch 2.11 does not compile the forward passes of torch.nn itself."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return logits


def module(compile: bool) -> SubnetModule:
    torch.manual_seed(0)
    network = Network(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 4, 5))
    return SubnetModule(network, EdgePopup(0.4), compile=compile)


@pytest.mark.thorough
def test_a_compiled_module_computes_what_the_plain_one_does_and_sees_scores_edited_and_loaded() -> None:
    plain, compiled = module(compile=False), module(compile=True)
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    torch.testing.assert_close(compiled(IMAGES), plain(IMAGES))
    for each in (plain, compiled):
        edit_(each.network)
    torch.testing.assert_close(compiled(IMAGES), plain(IMAGES))
    state = {key: value.flip(0) for key, value in plain.state_dict().items()}
    for each in (plain, compiled):
        each.load_state_dict(state)
    torch.testing.assert_close(compiled(IMAGES), plain(IMAGES))


def test_if_nothing_can_be_compiled_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing has been compiled before
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with (
        torch._inductor.config.patch({"cpp.cxx": ("/nowhere/g++",)}),  # monkeypatch would delete the value at its end
        pytest.raises(UserError, match=r"set --model\.compile=false"),
    ):
        module(compile=True)(IMAGES)
