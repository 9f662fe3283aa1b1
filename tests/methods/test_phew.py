"""PHEW: its walks against probabilities worked out by hand, and its masks of real networks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from lightning_subnets import mask_
from lightning_subnets import masks as current_masks
from lightning_subnets.errors import UserError
from lightning_subnets.graph.diagnostics import diagnose
from lightning_subnets.graph.random_walks import RandomWalks
from lightning_subnets.graph.unit_graph import Edges
from lightning_subnets.graph.unit_tracing import trace
from lightning_subnets.masking import initialization
from lightning_subnets.masking.allocation import num_kept
from lightning_subnets.masking.maskable import find_weights
from lightning_subnets.masking.method import PruningData
from lightning_subnets.methods.phew import PHEW


class Residual(nn.Module):
    """One convolution with a shortcut around it, and a linear layer: 2 inputs, 2 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 2, (1, 2), bias=False), nn.Linear(2, 2, bias=False)
        self.conv.weight = nn.Parameter(torch.tensor([[[1.0, -2], [3, 1]], [[-4, 1], [0, 2]]]).view(2, 2, 1, 2))
        self.head.weight = nn.Parameter(torch.tensor([[1.0, -3.0], [2.0, 1.0]]))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head((self.conv(images) + images[..., 1:]).mean((2, 3)))
        return out


def walks(network: nn.Module, seed: int = 0, *, whole_kernels: bool = False) -> RandomWalks:
    strengths = {
        name: layer.parameter.detach().abs().reshape(*layer.parameter.shape[:2], -1).numpy()
        for name, layer in find_weights(network).masked.items()
    }
    return RandomWalks(trace(network, (2, 4, 4)), strengths, seed, whole_kernels=whole_kernels)


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    with torch.no_grad():
        for name, layer in find_weights(network).masked.items():
            weight = initialization.draw_weights(
                "kaiming_normal", layer.parameter.shape, seed=seed, stream=initialization.stream_of(name)
            )
            layer.parameter.copy_(weight)
    return network


def resnet() -> nn.Module:
    """Return ResNet-18 of timm, an eighth as wide."""
    return drawn(timm.create_model("resnet18", channels=(8, 16, 32, 64), num_classes=10))


def shuffle_net() -> nn.Module:
    """Return a network with groups."""
    return drawn(torchvision.models.ShuffleNetV2([2, 2, 2], [8, 16, 32, 64, 128], num_classes=5))


def chosen(network: nn.Module, method: PHEW, seed: int = 0) -> dict[str, Tensor]:
    return method.compute_masks(network, PruningData(input_shape=(3, 32, 32), seed=seed))


def kept(masks: dict[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def test_walks_take_each_weight_with_its_probability() -> None:
    count = 60_000
    visited = walks(Residual()).visited(0, 2 * count)
    steps = 3  # convolution, sum, linear layer; a walk's number is its time by steps
    forward = visited.times // steps % 2 == 0
    found = [np.bincount(visited.weights[way], minlength=12) / count for way in (forward, ~forward)]

    # Forward, half of the walks from each input: 1/2 take the convolution, by |w| over the input's 8 or 6.
    first = np.array([1, 2, 0, 0, 4, 1, 0, 0]) / 8 / 4 + np.array([0, 0, 3, 1, 0, 0, 0, 2]) / 6 / 4
    # Probability of each unit; the first is reached by the convolution's 3/8 and 4/6 or the shortcut of input 0.
    at = np.array([(3 / 8 + 4 / 6) / 4 + 1 / 4, (5 / 8 + 2 / 6) / 4 + 1 / 4])
    second = np.array([at[0] * 1 / 3, at[1] * 3 / 4, at[0] * 2 / 3, at[1] * 1 / 4])
    np.testing.assert_allclose(found[0], [*first, *second], atol=0.006)

    # Backward, half from each output, by |w| over the output's 4 or 3.
    first = np.array([1 / 4, 3 / 4, 2 / 3, 1 / 3]) / 2
    at = np.array([first[0] + first[2], first[1] + first[3]])
    # Half of the walks at each unit came by the convolution, whose weights into each unit sum to 7.
    second = np.array([1, 2, 3, 1, 0, 0, 0, 0]) / 7 * at[0] / 2 + np.array([0, 0, 0, 0, 4, 1, 0, 2]) / 7 * at[1] / 2
    np.testing.assert_allclose(found[1], [*second, *first], atol=0.006)


def test_start_units_and_directions_of_walks_alternate() -> None:
    class Plain(Residual):
        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.head(self.conv(images).mean((2, 3)))
            return out

    visited = walks(Plain()).visited(4, 8)
    order = np.argsort(visited.times)
    numbers, weights = (visited.times // 2)[order], visited.weights[order]
    assert numbers.tolist() == [number for number in range(4, 12) for _ in range(2)]
    for number in range(4, 12):
        first, second = weights[numbers == number].tolist()
        if number % 2 == 0:  # a weight of the convolution that leaves input 0 for walks 4 and 8, input 1 for 6 and 10
            assert first // 2 % 2 == number // 2 % 2
            assert second >= 8
        else:  # a weight of the linear layer that enters the output
            assert (first - 8) // 2 == number // 2 % 2
            assert second < 8


def test_walks_do_not_depend_on_how_many_are_computed_together() -> None:
    network = walks(Residual(), seed=3)
    together = network.visited(0, 64)
    parts = [network.visited(first, 2) for first in range(0, 64, 2)]
    times = np.concatenate([part.times for part in parts])
    weights = np.concatenate([part.weights for part in parts])
    assert sorted(zip(times, weights, strict=True)) == sorted(zip(together.times, together.weights, strict=True))


def test_walks_avoid_dead_ends() -> None:
    network = Residual()
    with torch.no_grad():
        network.head.weight[:, 1] = 0.0  # nothing leaves the second unit
        network.conv.weight[0, 1] = 0.0  # so nothing leaves the second input
    visited = walks(network).visited(0, 2000)
    # The 2 weights between the first units, and the 2 that leave the first unit; as many as can be reached.
    assert set(visited.weights.tolist()) == {0, 1, 8, 10}
    assert walks(network).num_reachable == {"conv.weight": 2, "head.weight": 2}


@pytest.mark.parametrize("build", [resnet, pytest.param(shuffle_net, marks=pytest.mark.thorough)])
def test_exactly_as_many_weights_are_kept_as_the_density_says_and_on_paths(build: Callable[[], nn.Module]) -> None:
    network = build()
    layers = find_weights(network).masked
    graph, before = trace(network, (3, 32, 32)), None
    for density in (0.3, 0.01, 0.001):
        masks = chosen(network, PHEW(density))
        assert all(masks[name].shape == layer.parameter.shape for name, layer in layers.items())
        assert kept(masks) == num_kept(sum(mask.numel() for mask in masks.values()), density)
        assert before is None or not any(bool((mask & ~before[name]).any()) for name, mask in masks.items())
        before = masks
        counts = {name: mask.reshape(*mask.shape[:2], -1).sum(2).double().numpy() for name, mask in masks.items()}
        into, onward = graph.log_paths(counts), graph.log_paths(counts, backward=True)
        off_paths = 0
        for step in graph.steps:
            if isinstance(step, Edges):
                count = counts[step.name].reshape(step.groups, len(step.targets) // step.groups, -1)
                on_path = np.isfinite(into[step.sources]).reshape(step.groups, 1, -1)
                on_path = on_path & np.isfinite(onward[step.targets]).reshape(step.groups, -1, 1)
                off_paths += int(count[~on_path].sum())
        assert off_paths < len(layers)  # at most the last walk's


def test_masks_are_the_first_weights_of_the_walks_in_order() -> None:
    network = Residual()
    total, steps = 12, 3
    ordered = walks(network).visited(0, 64)
    order = np.argsort(ordered.times)
    for density in np.arange(1, 10) / total:
        masks = PHEW(density).compute_masks(network, PruningData(input_shape=(2, 4, 4)))
        mask = torch.cat([each.flatten() for each in masks.values()]).numpy()
        first: list[int] = []
        last = -1
        for weight, time in zip(ordered.weights[order].tolist(), ordered.times[order].tolist(), strict=True):
            if weight not in first:
                first.append(weight)
                last = time // steps
            if len(first) == num_kept(total, density):
                break
        assert set(np.flatnonzero(mask).tolist()) == set(first)
        whole = {weight for weight, time in zip(*ordered, strict=True) if time // steps < last}
        assert whole <= set(first)


def test_whole_kernels_are_kept_except_the_last_one() -> None:
    network = resnet()
    masks = chosen(network, PHEW(0.1, whole_kernels=True))
    assert kept(masks) == num_kept(sum(mask.numel() for mask in masks.values()), 0.1)
    kernels = torch.cat([mask.reshape(*mask.shape[:2], -1).double().mean(2).flatten() for mask in masks.values()])
    assert ((kernels > 0) & (kernels < 1)).sum() <= 1


def test_the_seed_determines_the_mask_and_nothing_else_changes() -> None:
    network = resnet()
    state, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    first, same, other = (chosen(network, PHEW(0.1), seed) for seed in (1, 1, 2))
    assert all(torch.equal(mask, same[name]) for name, mask in first.items())
    assert not all(torch.equal(mask, other[name]) for name, mask in first.items())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_density_that_walks_do_not_reach_is_an_error_that_names_the_one_they_reach() -> None:
    network = Residual()
    with pytest.raises(
        UserError, match=r"PHEW\(density=1.0\).*reach 11 of 12.*other than 0. Take a density up to 0.916"
    ):
        PHEW(1.0).compute_masks(network, PruningData(input_shape=(2, 4, 4)))
    with torch.no_grad():
        network.conv.weight[0, 0, 0, 0] = 1e-9
    with pytest.raises(UserError, match=r"PHEW\(density=0.9\).*reach 10 of 12.*less than one in 100.* up to 0.833"):
        PHEW(0.9).compute_masks(network, PruningData(input_shape=(2, 4, 4)))


def test_walks_pass_weights_that_stay_dense_and_do_not_count_them() -> None:
    network = mask_(resnet(), PHEW(0.1), weights=None, input_shape=(3, 32, 32), keep_dense=["conv1", "fc"])
    found = current_masks(network)
    assert not {"conv1.weight", "fc.weight"} & found.keys()
    assert kept(found) == num_kept(sum(mask.numel() for mask in found.values()), 0.1)
    diagnosis = diagnose(network, (3, 32, 32))
    assert sum(layer.kept - layer.on_paths for name, layer in diagnosis.layers.items() if name in found) < len(found)


def test_a_weight_on_no_path_is_an_error_that_names_it() -> None:
    class WithAuxiliary(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Linear(2, 1)

    with pytest.raises(UserError, match=r"none leads through auxiliary.weight: keep_dense=\['auxiliary.weight'\]"):
        mask_(WithAuxiliary(), PHEW(0.5), weights=None, input_shape=(2, 4, 4))
    network = mask_(WithAuxiliary(), PHEW(0.5), weights=None, input_shape=(2, 4, 4), keep_dense=["auxiliary"])
    assert list(current_masks(network)) == ["conv.weight", "head.weight"]
