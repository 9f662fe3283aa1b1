"""Diagnoses of networks small enough to work out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_subnets import (
    PHEW,
    EdgePopup,
    Method,
    Supermask,
    UserError,
    density,
    mask_,
    masked_weights,
    masks,
    unmask_,
)
from lightning_subnets.graph.diagnostics import diagnose, log10_path_kernel_trace, overlap
from lightning_subnets.masking import initialization
from lightning_subnets.masking.maskable import find_weights


def mask_of(*rows: list[int]) -> Tensor:
    return torch.tensor(rows).bool()


def full(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.ones_like(layer.parameter, dtype=torch.bool) for name, layer in find_weights(network).masked.items()
    }


class Chain(nn.Sequential):
    """Images of 2 channels and one pixel: 2 inputs, 3 units, 3 units, 2 outputs."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))


class Returning(nn.Linear):
    """A layer that returns its logits in a dict or in an object."""

    def __init__(self, inputs: int, outputs: int, kind: Callable[..., Any]) -> None:
        super().__init__(inputs, outputs)
        self.kind = kind

    def forward(self, features: Tensor) -> Any:
        return self.kind(logits=super().forward(features))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        out: Tensor = self.head((self.block(features) + features).mean((2, 3)))
        return out


def test_widths_and_paths_are_those_of_a_network_small_enough_to_see() -> None:
    left = {
        "1.weight": mask_of([1, 1], [1, 0], [0, 0]),  # to the first unit from both inputs, to the second from one
        "3.weight": mask_of([1, 0, 0], [0, 1, 0], [0, 0, 1]),  # each unit to one; nothing enters the third
        "5.weight": mask_of([1, 0, 1], [0, 0, 1]),  # from the first and the third unit; the second leads nowhere
    }
    found = diagnose(Chain(), (2, 1, 1), left)
    first, second, last = found.layers.values()
    assert (first.kept, first.total, first.density) == (3, 6, 0.5)
    # Two of three have an edge on both sides; the paths of the second end in the next layer.
    assert (first.units, first.width, first.alive, first.on_paths) == (3, 2, 1, 2)
    # The third has an edge on both sides, but no path from an input reaches it.
    assert (second.units, second.width, second.alive, second.on_paths) == (3, 2, 1, 1)
    assert (last.units, last.width, last.alive, last.on_paths) == (2, 2, 1, 1)
    assert found.log10_paths == pytest.approx(math.log10(2))
    assert found.density == 9 / 21
    assert (found.empty, found.cut_off, found.collapsed) == ([], [], [])


def test_a_layer_without_weights_cuts_off_the_others() -> None:
    network = Chain()
    left = full(network)
    left["3.weight"][:] = False
    found = diagnose(network, (2, 1, 1), left)
    assert (found.empty, found.cut_off, found.collapsed) == (
        ["3.weight"],
        ["1.weight", "5.weight"],
        ["1.weight", "3.weight", "5.weight"],
    )
    assert found.log10_paths == -math.inf
    assert [layer.alive for layer in found.layers.values()] == [0, 0, 0]


def test_a_shortcut_leads_around_an_empty_block() -> None:
    network = Residual()
    left = full(network)
    left["block.weight"][:] = False
    found = diagnose(network, (1, 4, 4), left)
    assert found.collapsed == ["block.weight"]
    assert found.log10_paths == pytest.approx(math.log10(2))
    assert found.layers["stem.weight"].width == found.layers["stem.weight"].alive == 2
    assert found.layers["block.weight"].width == found.layers["block.weight"].alive == 0
    left["head.weight"][0, 1] = False
    assert diagnose(network, (1, 4, 4), left).layers["stem.weight"].width == 1


def test_a_layer_that_evaluation_skips_is_not_collapsed() -> None:
    class WithAuxiliary(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Linear(1, 1)

        def forward(self, images: Tensor) -> Tensor:
            out = super().forward(images)
            return out + self.auxiliary(out) if self.training else out

    network = WithAuxiliary()
    found = diagnose(network, (1, 4, 4), full(network))
    assert [name for name, layer in found.layers.items() if not layer.used] == ["auxiliary.weight"]
    assert not found.collapsed


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_a_trace_may_exceed_float32s_range(scale: float) -> None:
    depth = 60
    network = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(depth)))
    for layer in network:
        assert isinstance(layer, nn.Conv2d)
        nn.init.constant_(layer.weight, scale)
    expected = math.log10(depth) + 2 * (depth - 1) * math.log10(scale)
    assert abs(expected) > 230
    assert log10_path_kernel_trace(network, full(network), (1, 1, 1)) == pytest.approx(expected, rel=1e-6)


def test_a_masked_network_is_diagnosed_with_its_own_masks_and_stays_as_it_was() -> None:
    network = mask_(Residual(), EdgePopup(0.5), weights="kaiming_normal")
    kept = masks(network)
    state = copy.deepcopy(network.state_dict())
    found = diagnose(network, (1, 4, 4))
    assert {name: layer.kept for name, layer in found.layers.items()} == {
        "stem.weight": 1,
        "block.weight": 18,
        "head.weight": 1,
    }
    plain = Residual()
    with torch.no_grad():
        for name, layer in find_weights(plain).masked.items():
            drawn = initialization.draw_weights(
                "kaiming_normal", layer.parameter.shape, seed=0, stream=initialization.stream_of(name)
            )
            layer.parameter.copy_(drawn)
    assert diagnose(plain, (1, 4, 4), kept) == found
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert list(masked_weights(network)) == ["stem.weight", "block.weight", "head.weight"]
    assert network.training


def test_a_network_that_draws_its_masks_is_diagnosed_with_one_draw() -> None:
    network = mask_(Residual(), Supermask(), weights="kaiming_normal")
    found = diagnose(network, (1, 4, 4))
    assert {name: layer.total for name, layer in found.layers.items()} == {
        name: weight.weight.numel() for name, weight in masked_weights(network).items()
    }
    assert all(layer.on_paths <= layer.kept for layer in found.layers.values())
    network(torch.zeros(1, 1, 4, 4)).sum().backward()


def test_a_weight_that_stays_dense_keeps_all_its_numbers_and_does_not_count_in_the_density() -> None:
    network = mask_(Residual(), EdgePopup(0.5), weights="kaiming_normal", keep_dense=["stem"])
    found = diagnose(network, (1, 4, 4))
    assert {name: layer.kept for name, layer in found.layers.items()} == {
        "stem.weight": 2,
        "block.weight": 18,
        "head.weight": 1,
    }
    assert [name for name, layer in found.layers.items() if not layer.masked] == ["stem.weight"]
    assert found.density == density(network) == 0.5


def test_a_trace_that_cannot_be_computed_is_a_mistake_of_the_caller() -> None:
    network = Returning(2, 2, dict)
    with pytest.raises(UserError, match=r"Returning does not compute in float64 for samples of shape \(3,\)"):
        log10_path_kernel_trace(network, full(network), (3,))
    with pytest.raises(UserError, match=r"Returning returns a dict with the keys \['logits'\]: return a tensor"):
        log10_path_kernel_trace(network, full(network), (2,))


def test_the_trace_of_a_network_that_returns_an_object_is_that_of_its_logits() -> None:
    network = Returning(2, 2, SimpleNamespace)
    assert 10 ** log10_path_kernel_trace(network, full(network), (2,)) == pytest.approx(4)  # 1 for each weight


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("weigth", (2, 2), "unknown weight in masks 'weigth'.*mean 'weight'"),
        ("weight", (2, 3), r"shape \(2, 3\).*\(2, 2\)"),
    ],
)
def test_a_mask_of_another_network_is_a_mistake_of_the_caller(name: str, shape: tuple[int, ...], message: str) -> None:
    masks = {name: torch.ones(shape, dtype=torch.bool)}
    with pytest.raises(UserError, match=message):
        diagnose(nn.Linear(2, 2), (2,), masks)
    with pytest.raises(UserError, match=message):
        log10_path_kernel_trace(nn.Linear(2, 2), masks, (2,))


def test_a_mask_under_the_second_name_of_a_shared_weight_is_a_mistake_of_the_caller() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    masks = {"1.weight": mask_of([0, 0], [0, 0])}
    with pytest.raises(UserError, match=r"unknown weight in masks '1\.weight'.*0\.weight"):
        diagnose(network, (2,), masks)
    with pytest.raises(UserError, match=r"unknown weight in masks '1\.weight'.*0\.weight"):
        log10_path_kernel_trace(network, masks, (2,))


def test_a_network_that_is_not_masked_needs_masks() -> None:
    with pytest.raises(ValueError, match="Residual is not masked"):
        diagnose(Residual(), (1, 4, 4))


def test_overlap_is_what_two_masks_share_of_what_either_keeps() -> None:
    first = {"a": mask_of([1, 1, 1, 0]), "b": mask_of([0, 0]), "c": mask_of([1, 0])}
    second = {"a": mask_of([0, 1, 1, 1]), "b": mask_of([0, 0]), "c": mask_of([0, 0])}
    whole, layers = overlap(first, second)
    assert layers == {"a": 2 / 4, "b": 1.0, "c": 0.0}
    assert whole == 2 / 5
    assert overlap(first, first)[0] == 1.0


@pytest.mark.parametrize("method", [EdgePopup(0.3), PHEW(0.3)], ids=repr)
@pytest.mark.parametrize("choice", [{"keep_dense": ["embed.weight"]}, {"also_mask": ["embed.weight"]}], ids=str)
def test_a_weight_that_is_also_an_embedding_is_followed_whatever_was_chosen_for_it(
    choice: dict[str, list[str]], method: Method
) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.first, self.head = nn.Embedding(9, 8), nn.Linear(6, 8), nn.Linear(8, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.first(x).relu())
            return out

    network = mask_(Tied(), method, weights="kaiming_normal", input_shape=(6,), **choice)  # type: ignore[arg-type]
    found = diagnose(network, (6,))
    assert {name: layer.masked for name, layer in found.layers.items()} == {
        "embed.weight": "also_mask" in choice,
        "first.weight": True,
    }
    assert not found.collapsed
    assert found.density == density(network)
    assert math.isfinite(log10_path_kernel_trace(network, masks(network), (6,)))


@pytest.mark.parametrize("method", [EdgePopup(0.4), PHEW(0.4)], ids=repr)
def test_a_matrix_that_only_also_mask_names_is_a_layer_and_a_table_is_none(method: Method) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 5), nn.Linear(3, 2)
            self.query, self.table = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(1, 5))

        def forward(self, x: Tensor) -> Tensor:
            features = self.first(x + nn.functional.linear(self.table, self.first.weight.T)).relu() + self.table
            out: Tensor = self.last(nn.functional.linear(features, self.query).relu())
            return out

    also = ["query"] if isinstance(method, PHEW) else ["query", "table"]
    network = mask_(Own(), method, weights="kaiming_normal", input_shape=(4,), also_mask=also)
    kept = masks(network)
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))
    named = {"first.weight": "0.weight", "query": "2.weight", "last.weight": "4.weight"}
    expected = diagnose(plain, (4,), {other: kept[name] for name, other in named.items()})
    found = diagnose(network, (4,))
    assert found.log10_paths == expected.log10_paths > 0
    assert {name: found.layers[name] for name in named} == {name: expected.layers[named[name]] for name in named}
    assert [name for name, layer in found.layers.items() if not layer.used] == also[1:]
    kept["query"][:] = False
    assert diagnose(unmask_(network), (4,), kept).cut_off == ["first.weight", "last.weight"]


@pytest.mark.parametrize("network", [nn.Sequential(nn.ReLU()), nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))])
def test_a_network_whose_weights_cannot_be_found_has_no_diagnosis(network: nn.Module) -> None:
    with pytest.raises(UserError, match=r"has no weight to mask|is computed from other parameters"):
        diagnose(network, (6,), {})
