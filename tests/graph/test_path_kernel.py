"""The trace of the path kernel against a sum over all paths, one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import pytest
import torch
from timm.layers.layer_scale import LayerScale
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FrozenBatchNorm2d

from lightning_subnets import EdgePopup, mask_, masks
from lightning_subnets.errors import UserError
from lightning_subnets.graph.diagnostics import log10_path_kernel_trace
from lightning_subnets.masking.maskable import find_weights


class Path(NamedTuple):
    """A path from a pixel to a position of a unit: the weights on it, and the product of the scales of its norms."""

    weights: tuple[float, ...] = ()
    scale: float = 1.0


Units = dict[tuple[int, ...], list[Path]]  # the paths to each position (channel, y, x), or to each neuron (number,)
Masks = Mapping[nn.Module, Tensor]


def image(channels: int, size: int) -> Units:
    return {place: [Path()] for place in itertools.product(range(channels), range(size), range(size))}


def longer(paths: list[Path], weight: Tensor, mask: Tensor) -> list[Path]:
    return [Path((*path.weights, weight.item()), path.scale) for path in paths] if mask else []


def through(layer: nn.Module, units: Units, masks: Masks) -> Units:
    """Return the paths to the outputs of a layer, from the paths to its inputs."""
    if isinstance(layer, nn.Sequential):
        for each in layer:
            units = through(each, units, masks)
        return units
    if isinstance(layer, BasicBlock):
        block = (layer.conv1, layer.bn1, layer.conv2, layer.bn2)
        shortcut = through(layer.downsample, units, masks) if layer.downsample else units
        return {key: paths + shortcut[key] for key, paths in through(nn.Sequential(*block), units, masks).items()}
    if isinstance(layer, nn.Conv2d):
        return convolved(layer, units, masks[layer])
    if isinstance(layer, nn.Linear):
        return {
            (j,): [path for i in range(len(units)) for path in longer(units[i,], row[i], masks[layer][j, i])]
            for j, row in enumerate(layer.weight)
        }
    if isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d):
        variance = layer.running_var
        assert variance is not None
        gammas = [1.0] * len(variance) if layer.weight is None else layer.weight.tolist()
        scales = [gamma / math.sqrt(v + layer.eps) for gamma, v in zip(gammas, variance.tolist(), strict=True)]
        return {
            key: [path._replace(scale=path.scale * scales[key[0]]) for path in paths] for key, paths in units.items()
        }
    if isinstance(layer, nn.Flatten):
        return {(number,): units[key] for number, key in enumerate(sorted(units))}
    assert isinstance(layer, nn.ReLU)
    return units


def convolved(layer: nn.Conv2d, units: Units, mask: Tensor) -> Units:
    size = 1 + max(y for _, y, _ in units)
    kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    wide = range((size + 2 * padding - kernel) // stride + 1)
    inputs, outputs = layer.weight.shape[1], layer.out_channels // layer.groups
    found: Units = {}
    for target, y, x in itertools.product(range(layer.out_channels), wide, wide):
        found[target, y, x] = [
            path
            for source, row, column in itertools.product(range(inputs), range(kernel), range(kernel))
            for path in longer(
                units.get(
                    (target // outputs * inputs + source, y * stride + row - padding, x * stride + column - padding), []
                ),
                layer.weight[target, source, row, column],
                mask[target, source, row, column],
            )
        ]
    return found


def by_all_paths(network: nn.Sequential, masks: Mapping[str, Tensor], channels: int, size: int) -> float:
    """Return the sum over paths and their weights of (the product of the other weights and of all scales)^2."""
    of_layers = {weight.owners[0][0]: masks[name] for name, weight in find_weights(network).masked.items()}
    paths = list(itertools.chain(*through(network, image(channels, size), of_layers).values()))
    assert len(paths) > 20
    return sum((path.scale * math.prod(path.weights) / weight) ** 2 for path in paths for weight in path.weights)


def block(inputs: int, outputs: int, stride: int) -> BasicBlock:
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)) if stride > 1 else None
    return BasicBlock(inputs, outputs, stride, shortcut)


NETWORKS = {
    "MLP": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(18, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    ),
    "padding and stride": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 2, groups=2), nn.Flatten(), nn.Linear(2, 2)
    ),
    "norms": lambda: nn.Sequential(
        nn.Conv2d(2, 2, 2),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Conv2d(2, 2, 1),
        nn.BatchNorm2d(2, affine=False),
        nn.Conv2d(2, 2, 1),
        FrozenBatchNorm2d(2),
        nn.Flatten(),
        nn.Linear(8, 1),
    ),
    "shortcuts": lambda: nn.Sequential(block(2, 2, 2), block(2, 2, 1), nn.Flatten(), nn.Linear(8, 2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_trace_is_the_sum_over_all_paths_and_their_weights(name: str) -> None:
    network = NETWORKS[name]().double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            for key, value in (*module.named_parameters(), *module.named_buffers()):
                if value.is_floating_point():
                    low, high = (0.1, 100.0) if key == "running_var" else (-2.0, 2.0)
                    nn.init.uniform_(value.detach(), low, high)
    masks = {name: torch.rand_like(layer.parameter) < 0.7 for name, layer in find_weights(network).masked.items()}
    before = {key: value.clone() for key, value in network.state_dict().items()}
    expected = math.log10(by_all_paths(network, masks, 2, 3))
    assert log10_path_kernel_trace(network, masks, (2, 3, 3)) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_mean_over_positions_divides_by_their_number() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1)).double()
    masks = {
        name: torch.ones_like(layer.parameter, dtype=torch.bool) for name, layer in find_weights(network).masked.items()
    }
    expected = sum(layer.parameter.item() ** 2 for layer in find_weights(network).masked.values())
    assert 10 ** log10_path_kernel_trace(network, masks, (1, 3, 3)) == pytest.approx(expected, rel=1e-12)


def test_a_sum_that_exceeds_the_range_of_float64_is_an_error_and_a_dropped_weight_without_a_term_is_not() -> None:
    network = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3))).double()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1e120)
    masks = {name: torch.ones_like(each.parameter).bool() for name, each in find_weights(network).masked.items()}
    with pytest.raises(UserError, match=r"Sequential has no trace of the path kernel: .*exceeds the range of float64"):
        log10_path_kernel_trace(network, masks, (2,))
    # dR2 / d(w^2) of the dropped weight of the second layer is 1e480, but the sum is over kept weights.
    masks["1.weight"][:] = False
    assert log10_path_kernel_trace(network, masks, (2,)) == -math.inf


class Storing(nn.Linear):
    """A layer that stores its bias in the first evaluation, as the attention of timm's LeViT does."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.stored: dict[str, Tensor] = {}
        self.inputs: list[Tensor] = []

    def forward(self, features: Tensor) -> Tensor:
        bias = self.bias if self.training else self.stored.setdefault("bias", self.bias * 2)
        self.inputs.append(features)
        self.output = nn.functional.linear(features, self.weight, bias)
        return self.output


def test_a_network_stores_nothing_of_the_computation() -> None:
    network = Storing()
    output = network(torch.ones(1, 4))  # no leaf, so the network cannot be copied
    for mode in (True, False):
        network.train(mode)
        assert 10 ** log10_path_kernel_trace(network, {}, (4,)) == pytest.approx(8)  # 1 for each weight
        assert not network.stored
        assert len(network.inputs) == 1
        assert network.output is output
        assert network.training == mode
    assert network(torch.ones(1, 4)).dtype == torch.float32


class OwnNorm(nn.Module):
    """A norm of one's own, whose small number has another name."""

    def __init__(self) -> None:
        super().__init__()
        self.epsilon = 1e-5
        self.register_buffer("running_var", torch.ones(6))

    def forward(self, features: Tensor) -> Tensor:
        return features / (self.get_buffer("running_var") + self.epsilon).sqrt()


def test_a_norm_without_eps_has_no_sum_over_paths() -> None:
    network = nn.Sequential(nn.Linear(4, 6), OwnNorm(), nn.ReLU(), nn.Linear(6, 2))
    masks = {name: torch.ones_like(each.parameter).bool() for name, each in find_weights(network).masked.items()}
    with pytest.raises(UserError, match="Sequential has no trace of the path kernel: OwnNorm has running_var, and no"):
        log10_path_kernel_trace(network, masks, (4,))


def test_a_norm_that_subtracts_a_mean_has_no_sum_over_paths() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2))
    masks = {name: torch.ones_like(each.parameter).bool() for name, each in find_weights(network).masked.items()}
    with pytest.raises(UserError, match="terms of the sum are negative, because the network subtracts, as LayerNorm"):
        log10_path_kernel_trace(network, masks, (4,))


def test_the_trace_is_the_same_in_inference_mode() -> None:
    network = mask_(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), EdgePopup(0.5))
    expected = log10_path_kernel_trace(network, masks(network), (4,))
    with torch.inference_mode():
        assert log10_path_kernel_trace(network, masks(network), (4,)) == expected


def test_a_factor_of_a_branch_is_squared_as_that_of_a_norm() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), LayerScale(1, 0.1), nn.Linear(1, 1, bias=False))
    for layer in (network[0], network[2]):
        nn.init.ones_(layer.get_parameter("weight"))
    assert 10 ** log10_path_kernel_trace(network, {}, (1,)) == pytest.approx(0.02, rel=1e-6)


@pytest.mark.parametrize("name", ["pos_embed", "q_bias", "beta"])
def test_what_is_added_is_0_in_the_trace(name: str) -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
            self.register_parameter(name, nn.Parameter(torch.tensor([2.0])))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.second(self.first(x) + getattr(self, name))
            return result

    network = Added()
    for layer in (network.first, network.second):
        nn.init.ones_(layer.weight)
    assert 10 ** log10_path_kernel_trace(network, {}, (1,)) == pytest.approx(2)
