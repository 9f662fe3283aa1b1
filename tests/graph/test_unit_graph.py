"""Unit graphs of small networks, worked out by hand, and their paths, followed one by one."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from unit_networks import Net, conv, edges, ones

from lightning_subnets.errors import UserError
from lightning_subnets.graph.unit_graph import NOTHING, Edges, Float64, Merge, UnitGraph
from lightning_subnets.graph.unit_tracing import trace
from lightning_subnets.networks import Conv2


def merges(graph: UnitGraph) -> list[tuple[int, int]]:
    (found,) = [step for step in graph.steps if isinstance(step, Merge)]
    return sorted(zip(found.sources.tolist(), found.targets.tolist(), strict=True))


def test_a_chain_has_a_new_unit_for_each_output_and_none_for_norms_activations_and_pools() -> None:
    def forward(a: nn.Module, b: nn.Module, images: Tensor) -> Any:
        features = nn.functional.max_pool2d(nn.functional.relu(a(images)), 2)
        return b(nn.functional.layer_norm(features.mean((2, 3)), (4,)))

    graph = trace(Net(conv(3, 4), nn.Linear(4, 2), forward), (3, 8, 8))
    assert graph.num_units == 9
    assert graph.inputs.tolist() == [0, 1, 2]
    assert graph.outputs.tolist() == [7, 8]
    first, second = edges(graph, "a.weight"), edges(graph, "b.weight")
    assert (first.sources.tolist(), first.targets.tolist(), first.groups) == ([0, 1, 2], [3, 4, 5, 6], 1)
    assert (second.sources.tolist(), second.targets.tolist()) == ([3, 4, 5, 6], [7, 8])


def test_flattening_makes_a_channel_as_many_features_as_it_has_positions() -> None:
    network = Net(conv(1, 2), nn.Linear(8, 3), lambda a, b, images: b(a(images).flatten(1)))
    graph = trace(network, (1, 2, 2))
    assert edges(graph, "b.weight").sources.tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    # 9 positions of a kernel, then 4 features, then 3 outputs, by each of two channels.
    paths = graph.log_paths(ones(network), backward=True)
    assert 10 ** paths[0] == pytest.approx(2 * 9 * 4 * 3)
    assert np.allclose(10 ** paths[1:3], 4 * 3)


def test_concatenation_and_slices_keep_units() -> None:
    def forward(a: nn.Module, b: nn.Module, images: Tensor) -> Any:
        return b(torch.cat([images[:, 1:], a(images)[:, ::2]], dim=1)).mean((2, 3))

    graph = trace(Net(conv(3, 4), conv(4, 2), forward), (3, 4, 4))
    assert edges(graph, "b.weight").sources.tolist() == [1, 2, 3, 5]  # units 4 and 6 lead nowhere


def test_a_shuffle_of_channels_reorders_units() -> None:
    def forward(a: nn.Module, b: nn.Module, images: Tensor) -> Any:
        first, second = a(images).chunk(2, dim=1)
        both = torch.cat([second, first], dim=1)
        return b(both.view(-1, 2, 2, 4, 4).transpose(1, 2).contiguous().view(-1, 4, 4, 4)).mean((2, 3))

    graph = trace(Net(conv(3, 4), conv(4, 2), forward), (3, 4, 4))
    # 3 4 | 5 6, halves swapped: 5 6 | 3 4, read column by column.
    assert edges(graph, "b.weight").sources.tolist() == [5, 3, 6, 4]


def test_groups_keep_paths_apart() -> None:
    network = Net(conv(4, 4, groups=2), conv(4, 4, groups=4), lambda a, b, images: b(a(images)).mean((2, 3)))
    graph = trace(network, (4, 4, 4))
    assert edges(graph, "a.weight").groups == 2
    only_first_input = graph._replace(inputs=graph.inputs[:1])
    paths = 10 ** only_first_input.log_paths(ones(network))
    # A group's two outputs take 9 positions each from the input, then 9 depthwise.
    assert np.allclose(paths[4:8], [9, 9, 0, 0])
    assert np.allclose(paths[8:], [81, 81, 0, 0])


def test_a_shortcut_merges_two_units_into_a_new_one() -> None:
    def forward(a: nn.Module, b: nn.Module, images: Tensor) -> Any:
        out = b(nn.functional.relu(a(images)))
        out += images
        return nn.functional.relu(out).mean((2, 3))

    network = Net(conv(2, 3), conv(3, 2), forward)
    graph = trace(network, (2, 4, 4))
    assert merges(graph) == [(0, 7), (1, 8), (5, 7), (6, 8)]
    assert graph.outputs.tolist() == [7, 8]
    # To each output: from both inputs through 3 units by two kernels, and one shortcut.
    assert np.allclose(10 ** graph.log_paths(ones(network))[7:], 2 * 3 * 81 + 1)


def test_a_shortcut_padded_with_channels_of_zeros_leads_to_those_in_the_middle() -> None:
    """He et al. 2016, option A."""

    def padded(a: nn.Module, b: nn.Module, images: Tensor) -> Any:
        shortcut = nn.functional.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        return b(a(images) + shortcut).mean((2, 3))

    def written(a: nn.Module, b: nn.Module, images: Tensor) -> Any:
        out = a(images)
        shortcut = torch.zeros_like(out)
        shortcut[:, 1:3] += images[:, :, ::2, ::2]
        out += shortcut
        return b(out).mean((2, 3))

    for forward in (padded, written):
        graph = trace(Net(conv(2, 4, stride=2), conv(4, 1), forward), (2, 4, 4))
        assert merges(graph) == [(0, 6), (1, 7), (3, 6), (4, 7)]
        assert edges(graph, "b.weight").sources.tolist() == [2, 6, 7, 5]


def test_channels_of_zeros_lead_nowhere() -> None:
    network = Net(
        conv(4, 2),
        nn.Linear(2, 1),
        lambda a, b, images: b(a(nn.functional.pad(images, (0, 0) * 2 + (1, 2))).mean((2, 3))),
    )
    graph = trace(network, (1, 4, 4))
    assert edges(graph, "a.weight").sources.tolist() == [NOTHING, 0, NOTHING, NOTHING]
    assert 10 ** graph.log_paths(ones(network))[graph.outputs] == pytest.approx(9 * 2)
    assert 10 ** graph.log_paths(ones(network), backward=True)[0] == pytest.approx(9 * 2)


def test_a_factor_of_squeeze_and_excitation_is_a_way_to_the_product() -> None:
    def forward(a: nn.Module, b: nn.Module, images: Tensor) -> Any:
        features = a(images)
        return (features * torch.sigmoid(b(nn.functional.adaptive_avg_pool2d(features, 1)))).mean((2, 3))

    graph = trace(Net(conv(1, 2), nn.Conv2d(2, 2, 1), forward), (1, 4, 4))
    assert merges(graph) == [(1, 5), (2, 6), (3, 5), (4, 6)]


def test_positions_that_become_channels_are_joined_where_one_channel_takes_them() -> None:
    """The features of a linear layer become a feature map with four units in each channel."""
    network = Net(nn.Linear(2, 8), conv(2, 1), lambda a, b, images: b(a(images.mean((2, 3))).view(-1, 2, 2, 2)))
    graph = trace(network, (2, 4, 4))
    assert merges(graph) == [*((unit, 10) for unit in range(2, 6)), *((unit, 11) for unit in range(6, 10))]
    assert edges(graph, "b.weight").sources.tolist() == [10, 11]


def test_a_layer_used_twice_stands_in_the_graph_twice() -> None:
    network = Net(conv(2, 2), nn.Linear(2, 1), lambda a, b, images: b(a(a(images)).mean((2, 3))))
    graph = trace(network, (2, 4, 4))
    assert [step.name for step in graph.steps if isinstance(step, Edges)] == ["a.weight", "a.weight", "b.weight"]
    assert 10 ** graph.log_paths(ones(network))[graph.outputs] == pytest.approx(2 * 18 * 18)


class Branches(nn.Module):
    """A bit of everything: groups, a shortcut, concatenation, flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(1, 4), conv(4, 4, groups=2), nn.Conv2d(4, 2, 1)
        self.head = nn.Linear(24, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images).relu_()
        left = self.left(features) + features
        both = torch.cat([left, self.right(features)], dim=1)
        out: Tensor = self.head(both.flatten(1))
        return out


def paths_of(graph: UnitGraph, weights: dict[str, Float64]) -> Iterator[float]:
    """Yield each path from an input to an output as the product of its edges."""
    ahead: dict[int, list[tuple[int, float]]] = {unit: [] for unit in range(graph.num_units)}
    for step in graph.steps:
        if isinstance(step, Merge):
            for source, target in zip(step.sources.tolist(), step.targets.tolist(), strict=True):
                ahead[source].append((target, 1.0))
            continue
        per_group = len(step.sources) // step.groups
        for (output, target), (input_, source) in itertools.product(
            enumerate(step.targets.tolist()), enumerate(step.sources.tolist())
        ):
            if input_ // per_group == output // (len(step.targets) // step.groups):
                ahead[source].append((target, weights[step.name][output, input_ % per_group]))

    def follow(unit: int, product: float) -> Iterator[float]:
        if unit in graph.outputs:
            yield product
        for target, weight in ahead[unit]:
            if weight:
                yield from follow(target, product * weight)

    for unit in graph.inputs.tolist():
        yield from follow(unit, 1.0)


def test_paths_are_as_many_as_one_finds_following_each() -> None:
    network = Branches()
    graph = trace(network, (1, 2, 2))
    weights = ones(network)
    for name, values in weights.items():
        weights[name] = values * (torch.rand(values.shape) < 0.7).double().numpy()
    followed = sum(paths_of(graph, weights))
    assert followed > 100
    assert np.sum(10 ** graph.log_paths(weights)[graph.outputs]) == pytest.approx(followed)
    assert np.sum(10 ** graph.log_paths(weights, backward=True)[graph.inputs]) == pytest.approx(followed)


def test_the_number_of_paths_has_no_upper_end() -> None:
    network = nn.Sequential(*(conv(64, 64) for _ in range(120)))
    paths = trace(network, (64, 2, 2)).log_paths(ones(network))
    assert paths[-1] == pytest.approx(120 * math.log10(64 * 9))
    assert paths[-1] > 309  # the largest float64 is 1.8e308


def test_tracing_leaves_the_network_and_the_random_numbers_as_they_were() -> None:
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.append(nn.Linear(4, 2))
    network[1].eval()
    network[0].weight.requires_grad_(False)
    state = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    random = torch.get_rng_state()
    trace(network, (3, 8, 8))
    assert [module.training for module in network.modules()] == modes
    assert modes == [True, True, False, True, True, True, True]
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert [parameter.requires_grad for parameter in network.parameters()] == [False, *[True] * 4]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_network_that_does_not_take_such_images_is_a_mistake_and_keeps_its_mode() -> None:
    network = Conv2()
    with pytest.raises(UserError, match=r"units of Conv2 cannot be followed for images of shape \(3, 8, 8\)"):
        trace(network, (3, 8, 8))
    assert network.training


class ByContent(Conv2):
    """Computes different things for different images."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return logits if logits.sum() > 0 else -logits


def test_a_forward_pass_that_depends_on_numbers_is_an_error_and_torch_prints_and_logs_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("torch.fx.experimental.symbolic_shapes"), "handle", logged.append)
    with pytest.raises(UserError, match=r"units of ByContent cannot be followed .*data-dependent"):
        trace(ByContent(), (3, 32, 32))
    assert capfd.readouterr() == ("", ""), "torch.export has printed its graph"
    assert not logged
    assert logging.root.manager.disable == logging.NOTSET
