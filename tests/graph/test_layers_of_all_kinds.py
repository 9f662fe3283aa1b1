"""Convolutions of all dimensions, transposed ones, and Linears over features and tokens, against the layers' own sums.

All weights of a network are 0 or 1 by a mask. If each input reaches each position of each kernel, the sum of the
outputs for an input of one 1 is the number of paths from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_subnets.graph.diagnostics import diagnose, log10_path_kernel_trace
from lightning_subnets.graph.random_walks import RandomWalks
from lightning_subnets.graph.unit_graph import Edges
from lightning_subnets.graph.unit_tracing import trace
from lightning_subnets.masking.allocation import num_kept
from lightning_subnets.masking.maskable import find_weights
from lightning_subnets.masking.method import PruningData
from lightning_subnets.methods.phew import PHEW


class Product(nn.Linear):
    """A Linear that multiplies tokens by its transposed weight, as a forward pass of one's own may."""

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weight.T


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "features": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,)),
    "tokens": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (5, 3)),
    "one feature in a product": (lambda: nn.Sequential(nn.Linear(3, 1), Product(1, 6), nn.Linear(6, 3)), (5, 3)),
    "tokens in a product": (lambda: nn.Sequential(Product(3, 4), nn.ReLU(), nn.Linear(4, 2)), (5, 3)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 4, 3, padding=4), nn.ReLU(), nn.Conv1d(4, 2, 3, groups=2)), (4, 3)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 2, padding=2), nn.Conv3d(4, 3, (1, 2, 1))), (2, 2, 2, 2)),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=2, groups=2), nn.Conv2d(4, 3, 1)), (2, 2, 2)),
    "transposed 1d": (lambda: nn.Sequential(nn.ConvTranspose1d(3, 4, 3, stride=2), nn.Conv1d(4, 2, 1)), (3, 4)),
    "transposed 2d": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Conv2d(6, 1, 1)),
        (2, 3, 3),
    ),
    "transposed 3d": (
        lambda: nn.Sequential(nn.ConvTranspose3d(2, 4, 2, groups=2), nn.ConvTranspose3d(4, 3, 1)),
        (2,) * 4,
    ),
}


def masked(network: nn.Module, density: float = 0.6) -> dict[str, Tensor]:
    """Set the weights of a network to a random mask, and the biases to 0; return the mask."""
    network.double()
    masks: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        mask = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(len(masks))) < density
        parameter.data = mask.double() if name.endswith("weight") else torch.zeros_like(parameter)
        if name.endswith("weight"):
            masks[name] = mask
    return masks


def impulse(shape: tuple[int, ...], unit: int) -> Tensor:
    """Return a sample of zeros with one 1 in a unit: a channel, or a feature of tokens."""
    sample = torch.zeros(1, *shape, dtype=torch.float64)
    channels = sample if len(shape) == 1 or shape == (5, 3) else sample.flatten(2).movedim(1, -1)
    channels.view(-1, channels.shape[-1])[1 if len(shape) > 1 else 0, unit] = 1.0
    return sample


def total(network: nn.Module, shape: tuple[int, ...]) -> float:
    with torch.no_grad():
        return sum(float(network(impulse(shape, unit)).sum()) for unit in range(num_units(shape)))


def num_units(shape: tuple[int, ...]) -> int:
    return shape[-1] if shape == (5, 3) else shape[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_paths_are_as_many_as_the_layers_sum_up(name: str) -> None:
    build, shape = NETWORKS[name]
    network = build()
    masks = masked(network)
    graph = trace(network, shape)
    assert len(graph.inputs) == num_units(shape)
    weights = {key: mask.reshape(*mask.shape[:2], -1).sum(2).double().numpy() for key, mask in masks.items()}
    with torch.no_grad():
        expected = [float(network(impulse(shape, unit)).sum()) for unit in range(num_units(shape))]
    assert max(expected) > 2
    assert 10 ** graph.log_paths(weights, backward=True)[graph.inputs] == pytest.approx(expected)
    assert np.sum(10 ** graph.log_paths(weights)[graph.outputs]) == pytest.approx(sum(expected))


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_on_paths_and_units_are_those_without_which_the_sum_is_smaller(name: str) -> None:
    build, shape = NETWORKS[name]
    network = build()
    masks = masked(network, 0.4)
    found = diagnose(network, shape, masks)
    all_paths = total(network, shape)
    assert 10**found.log10_paths == pytest.approx(all_paths)
    for key, mask in masks.items():
        parameter = network.get_parameter(key).data
        needed = 0
        for place in mask.nonzero():
            parameter[tuple(place)] = 0.0
            needed += total(network, shape) < all_paths
            parameter[tuple(place)] = 1.0
        assert (found.layers[key].kept, found.layers[key].on_paths) == (int(mask.sum()), needed)
        layer = network.get_submodule(key.removesuffix(".weight"))
        outputs = layer.out_channels if hasattr(layer, "out_channels") else layer.out_features
        assert found.layers[key].units == outputs
        assert found.layers[key].alive == sum(
            without(layer, unit, network, shape) < all_paths for unit in range(outputs)
        )


def without(layer: nn.Module, unit: int, network: nn.Module, shape: tuple[int, ...]) -> float:
    """Return the number of paths if an output unit of a layer is 0."""

    def emptied(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        output.select(-1 if isinstance(layer, nn.Linear) else 1, unit).zero_()
        return output

    hook = layer.register_forward_hook(emptied)
    try:
        return total(network, shape)
    finally:
        hook.remove()


def swapped(weight: Tensor, groups: int) -> Tensor:
    """Return a weight (out, in / groups, ...) as (in, out / groups, ...)."""
    return torch.cat([part.transpose(0, 1) for part in weight.chunk(groups)]).contiguous()


def walks(network: nn.Module) -> RandomWalks:
    strengths = {
        name: each.parameter.detach().abs().reshape(*each.parameter.shape[:2], -1).numpy()
        for name, each in find_weights(network).masked.items()
    }
    return RandomWalks(trace(network, (4, 2, 2)), strengths, 0)


def test_a_transposed_convolution_takes_the_walks_and_the_trace_of_the_convolution_that_it_equals() -> None:
    plain = [nn.Conv2d(4, 6, 1, groups=2, bias=False), nn.Conv2d(6, 2, 1, bias=False)]
    turned = [nn.ConvTranspose2d(4, 6, 1, groups=2, bias=False), nn.ConvTranspose2d(6, 2, 1, bias=False)]
    for first, second in zip(plain, turned, strict=True):
        second.weight.data = swapped(first.weight.data, first.groups)
    numbers = torch.arange(12).view(6, 2, 1, 1), torch.arange(12, 24).view(2, 6, 1, 1)
    # The number of each weight of the transposed convolutions in the order of the plain ones.
    renumbered = torch.cat([swapped(numbers[0], 2).flatten(), swapped(numbers[1], 1).flatten()]).numpy()
    here, there = (walks(nn.Sequential(*layers)).visited(0, 4096) for layers in (plain, turned))
    assert sorted(zip(here.times, here.weights, strict=True)) == sorted(
        zip(there.times, renumbered[there.weights], strict=True)
    )
    masks, names = {}, ("0.weight", "1.weight")
    for name, layer in zip(names, plain, strict=True):
        masks[name] = torch.rand_like(layer.weight) < 0.7
    other = {
        name: swapped(masks[name].to(torch.uint8), layer.groups).bool()
        for name, layer in zip(names, plain, strict=True)
    }
    expected = log10_path_kernel_trace(nn.Sequential(*plain), masks, (4, 2, 2))
    assert math.isfinite(expected)
    assert log10_path_kernel_trace(nn.Sequential(*turned), other, (4, 2, 2)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_phew_keeps_weights_on_paths(name: str) -> None:
    build, shape = NETWORKS[name]
    network = build()
    masks = PHEW(0.3).compute_masks(network, PruningData(input_shape=shape))
    found = diagnose(network, shape, masks)
    off_paths = sum(layer.kept - layer.on_paths for layer in found.layers.values())
    assert off_paths < len(masks)  # at most the last walk's
    assert sum(int(mask.sum()) for mask in masks.values()) == num_kept(
        sum(mask.numel() for mask in masks.values()), 0.3
    )


class Products(nn.Module):
    """The weight of a Linear as a factor of a product of matrices."""

    def __init__(self, forward: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.product = nn.Linear(3, 4), nn.Linear(4, 2), forward

    def forward(self, features: Tensor) -> Tensor:
        return self.product(self.first(features).relu(), self.second.weight)


@pytest.mark.parametrize(
    "forward",
    [
        lambda features, weight: features @ weight.t(),
        lambda features, weight: torch.mm(features, weight.transpose(0, 1)),
        lambda features, weight: torch.addmm(torch.zeros(2), features, weight.T),
        lambda features, weight: torch.nn.functional.linear(features, weight.to(torch.float32)),
    ],
    ids=["matmul", "mm", "addmm", "cast"],
)
def test_a_weight_may_be_transposed_and_cast_on_its_way_to_a_product(
    forward: Callable[[Tensor, Tensor], Tensor],
) -> None:
    expected = trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,))
    found = trace(Products(forward), (3,))
    assert [step.targets.tolist() for step in found.steps] == [step.targets.tolist() for step in expected.steps]
    assert [step.sources.tolist() for step in found.steps] == [step.sources.tolist() for step in expected.steps]
    assert not any(step.transposed for step in found.steps if isinstance(step, Edges))


def test_a_weight_laid_out_as_inputs_by_outputs_is_transposed() -> None:
    network = Products(lambda features, weight: features.repeat(1, 2)[:, :2] @ weight)
    last = trace(network, (3,)).steps[-1]
    assert isinstance(last, Edges)
    assert (last.name, last.transposed, len(last.sources), len(last.targets)) == ("second.weight", True, 2, 4)


def test_a_weight_used_as_it_is_and_transposed_is_diagnosed_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(3, 2)

        def forward(self, features: Tensor) -> Tensor:
            return nn.functional.linear(self.encoder(features), self.encoder.weight.t())

    network = Tied()
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]]).bool()
    layer = diagnose(network, (3,), {"encoder.weight": mask}).layers["encoder.weight"]
    assert (layer.on_paths, layer.units, layer.width, layer.alive) == (2, 2, 1, 1)


def test_a_blur_with_a_constant_kernel_keeps_channels_apart() -> None:
    class Blurred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 1)
            self.register_buffer("kernel", torch.ones(3, 1, 2, 2) / 4)

        def forward(self, images: Tensor) -> Tensor:
            blurred = nn.functional.conv2d(self.conv(images), self.get_buffer("kernel"), groups=3)
            out: Tensor = self.head(blurred)
            return out

    first, second = trace(Blurred(), (1, 4, 4)).steps
    assert first.targets.tolist() == second.sources.tolist() == [1, 2, 3]
