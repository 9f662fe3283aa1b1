"""What a mask leaves of a network: widths, paths, the path kernel, collapse; and what two masks have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.graph.recording import evaluating
from lightning_subnets.graph.unit_graph import NOTHING, Float64, Mask, Merge, UnitGraph
from lightning_subnets.graph.unit_tracing import trace
from lightning_subnets.masking import maskable, prune_at_init


@dataclass(frozen=True)
class LayerDiagnosis:
    """What is left of one layer.

    Attributes:
        kept, total: weights.
        on_paths: of the kept weights those that lie on a path of kept weights from an input to an output.
        units: channels or neurons that the layer puts out.
        width: of the units those with a kept weight that enters and one that leaves; what leaves a unit may do so
            behind the addition of a shortcut, and an output of the network needs none.
        alive: of the units those on a path of kept weights from an input to an output; never more than the width.
        used: False for a layer that evaluation does without, as an auxiliary classifier; it has no paths.
    """

    kept: int
    total: int
    on_paths: int
    units: int
    width: int
    alive: int
    used: bool

    @property
    def density(self) -> float:
        return self.kept / self.total


@dataclass(frozen=True)
class Diagnosis:
    """What masks leave of a network.

    Attributes:
        layers: each by its name, in the order of the network.
        log10_paths: of the number of paths of kept weights from an input to an output, in the graph of units, where
            each kept position of a kernel is an edge; -inf if there is none.
    """

    layers: dict[str, LayerDiagnosis]
    log10_paths: float

    @property
    def density(self) -> float:
        return sum(layer.kept for layer in self.layers.values()) / sum(layer.total for layer in self.layers.values())

    @property
    def empty(self) -> list[str]:
        """The layers that no weight is kept of."""
        return [name for name, layer in self.layers.items() if not layer.kept]

    @property
    def cut_off(self) -> list[str]:
        """The layers that keep weights, but none on a path from an input to an output."""
        return [name for name, layer in self.layers.items() if layer.used and layer.kept and not layer.on_paths]

    @property
    def collapsed(self) -> list[str]:
        """The layers that nothing flows through, empty or cut off; around some of them a shortcut may still lead."""
        return [name for name in self.layers if name in {*self.empty, *self.cut_off}]


def diagnose(network: nn.Module, input_shape: Sequence[int], masks: Mapping[str, Tensor] | None = None) -> Diagnosis:
    """What masks leave of a network, which stays as it was.

    Args:
        network: masked, with the masks it has; or plain, with ``masks``.
        input_shape: of one image, (channels, height, width).
        masks: boolean, of every layer by its name.

    Raises:
        ValueError: if the network's units cannot be followed, see ``unit_tracing.trace``; if it is not masked
            and no masks are given.
    """
    if masks is None:
        masks = {name: layer.mask() for name, layer in masking.masked_layers(network)}
        with prune_at_init.temporarily_unmasked(network):
            return diagnose(network, input_shape, masks)
    graph = trace(network, input_shape)
    kept = {name: mask.reshape(*mask.shape[:2], -1).sum(2).double().cpu().numpy() for name, mask in masks.items()}
    into, onward = graph.log_paths(kept), graph.log_paths(kept, backward=True)
    layers = _layers(graph, kept, into > -np.inf, onward > -np.inf)
    return Diagnosis(
        {name: _layer(layers.get(name), mask) for name, mask in masks.items()},
        float(np.logaddexp2.reduce(into[graph.outputs] / math.log10(2)) * math.log10(2)),
    )


def log10_path_kernel_trace(network: nn.Module, masks: Mapping[str, Tensor], input_shape: Sequence[int]) -> float:
    """log10 of Tr = sum over paths p and their kept weights k of (pi_p / w_k)^2 = sum_k dR2 / d(w_k^2).

    pi_p is the product of the weights along the path and of the scales of the norms on it; a norm with running
    statistics scales by gamma / sqrt(var + eps). w_k is the weight that the layer computes with, which for ``Biprop``
    and a scaled ``Supermask`` is not the weight that was drawn. R2 is the sum of the outputs, in float64, for an image
    of ones: the network is in evaluation mode, all weights are masked, every factor of pi_p is squared, and every shift
    (biases, the means of norms) is 0.

    Everything else computes as it always does: a mean over n positions divides by n, not by n^2, and a max-pool takes
    the largest value. If activations do more than cut at 0, or norms have no running statistics, the result is not a
    sum over paths, but it still compares masks of one network.

    Args:
        network: masked, or plain with the weights that it computes with; it stays as it was.
        masks: boolean, of every layer by its name.
        input_shape: of one image, (channels, height, width).

    Returns: -inf if there is no path, and inf if the sum exceeds float64's range, 1.8e308; a ResNet-152 is at about
        1e50. NaN if the sum is NaN or negative; a network that changes signs can make it negative.
    Raises:
        ValueError: if the network does not compute in float64.
    """
    methods = {name: each.method for name, each in network.named_modules() if isinstance(each, masking.MaskedLayer)}
    with (
        prune_at_init.temporarily_unmasked(network) if methods else nullcontext(),
        evaluating(network),
        torch.enable_grad(),
    ):
        squares: dict[str, Tensor] = {}
        for name, layer in maskable.maskable_layers(network).items():
            weight, mask = layer.weight.detach(), masks[name]
            effective = methods[name].effective_weight(weight, mask) if methods else weight * mask
            squares[name] = effective.double().square().requires_grad_()
        device = next(iter(squares.values())).device
        images = torch.ones((1, *input_shape), dtype=torch.float64, device=device)
        tensors = _other_factors_squared(network) | {f"{name}.weight": square for name, square in squares.items()}
        try:
            total = functional_call(network, tensors, (images,)).sum()
        except RuntimeError as error:
            raise UserError(f"{type(network).__name__} does not compute in float64: {error}") from error
        gradients = torch.autograd.grad(total, list(squares.values()), materialize_grads=True)
    trace_ = sum(float((gradient * masks[name]).sum()) for name, gradient in zip(squares, gradients, strict=True))
    if trace_ > 0:
        return math.log10(trace_)
    return -math.inf if trace_ == 0 else math.nan


def _other_factors_squared(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers in float64 that make norms scale by the square of their scale, and shift by 0."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in (*network.named_parameters(), *network.named_buffers()):
        owner, _, name = key.rpartition(".")
        value = tensor.detach().double() if tensor.is_floating_point() else tensor
        if name in ("bias", "running_mean"):
            value = torch.zeros_like(value)
        elif name == "weight":
            value = value.square()
        elif name == "running_var":  # a norm adds eps and takes the root
            eps: Any = network.get_submodule(owner).eps
            value = (value + eps).square() - eps
        tensors[key] = value
    return tensors


class Overlap(NamedTuple):
    """What two masks have in common.

    Attributes:
        jaccard: kept by both / kept by either (intersection over union); 1 if neither keeps anything. Of two masks
            drawn independently at density d it is about d / (2 - d).
        shared: kept by both / kept by the one that keeps less (overlap coefficient); about d then.
    """

    jaccard: float
    shared: float


def overlap(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> tuple[Overlap, dict[str, Overlap]]:
    """What the masks of two subnetworks of one network have in common: in the whole, and in each layer."""
    counts = {
        name: np.array([int((mask & second[name]).sum()), int(mask.sum()), int(second[name].sum())])
        for name, mask in first.items()
    }
    return _overlap(np.sum(list(counts.values()), axis=0)), {name: _overlap(each) for name, each in counts.items()}


def _overlap(counts: NDArray[np.int64]) -> Overlap:
    both, first, second = counts.tolist()
    either, fewer = first + second - both, min(first, second)
    return Overlap(both / either if either else 1.0, both / fewer if fewer else float(first == second))


class _Found(NamedTuple):
    """Of a layer in the graph, by unit that it puts out and by connection."""

    wide: Mask
    alive: Mask
    on_paths: Float64


def _layers(graph: UnitGraph, kept: Mapping[str, Float64], reached: Mask, leading: Mask) -> dict[str, _Found]:
    left = np.zeros(graph.num_units + 1, np.bool_)  # units that something leaves; the last one is NOTHING
    left[graph.outputs] = True
    found: dict[str, _Found] = {}
    for step in reversed(graph.steps):
        if isinstance(step, Merge):
            left[step.sources[left[step.targets]]] = True
            continue
        weights = kept[step.name]
        blocks = weights.reshape(step.groups, -1, weights.shape[1])
        known = step.sources != NOTHING
        into = np.where(known, reached[step.sources], False).reshape(step.groups, 1, -1)
        onward = leading[step.targets].reshape(step.groups, -1, 1)
        here = _Found(
            weights.any(axis=1) & left[step.targets],
            reached[step.targets] & leading[step.targets],
            (blocks * into * onward).reshape(weights.shape),
        )
        # The network may use a layer more than once.
        found[step.name] = _Found(*(map(np.maximum, found.get(step.name, here), here)))
        left[step.sources[known & blocks.any(axis=1).reshape(-1)]] = True
    return found


def _layer(found: _Found | None, mask: Tensor) -> LayerDiagnosis:
    return LayerDiagnosis(
        kept=int(mask.sum()),
        total=mask.numel(),
        on_paths=int(found.on_paths.sum()) if found else 0,
        units=len(mask),
        width=int(found.wide.sum()) if found else 0,
        alive=int(found.alive.sum()) if found else 0,
        used=found is not None,
    )
