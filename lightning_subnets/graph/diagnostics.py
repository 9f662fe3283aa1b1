"""Widths, paths, the path kernel and collapse of a masked network, and the overlap of two masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_subnets import masking
from lightning_subnets.errors import UserError, unknown
from lightning_subnets.graph.logits import logits_of
from lightning_subnets.graph.recording import evaluating
from lightning_subnets.graph.unit_graph import NOTHING, Float64, Mask, Merge, UnitGraph
from lightning_subnets.graph.unit_tracing import trace
from lightning_subnets.masking import is_masked, masked_weights
from lightning_subnets.masking.maskable import weights_of
from lightning_subnets.masking.masked_weight import multipliers
from lightning_subnets.masking.other_parameters import kind_of, own_name


@dataclass(frozen=True)
class LayerDiagnosis:
    """The part of one layer that a mask leaves.

    Attributes:
        kept, total: the number of weights.
        on_paths: the kept weights on a path of kept weights from an input to an output.
        units: the layer's output channels, features or neurons.
        width: the units that a kept weight enters and another leaves, perhaps only after a shortcut was added; an
            output of the network counts without one that leaves.
        alive: the units on a path of kept weights from an input to an output; never more than the width.
        used: False for a layer off the graph, see ``unit_tracing.trace``: evaluation skips it, as an auxiliary
            classifier, or its input is a constant. It has no paths and does not collapse.
        masked: False for a weight that stays dense, such as one of ``keep_dense``.
    """

    kept: int
    total: int
    on_paths: int
    units: int
    width: int
    alive: int
    used: bool
    masked: bool = True

    @property
    def density(self) -> float:
        return self.kept / self.total


@dataclass(frozen=True)
class Diagnosis:
    """The part of a network that masks leave.

    Attributes:
        layers: each weight by its name, masked or dense, in the network's order.
        log10_paths: log10 of the number of paths of kept weights from an input to an output in the graph of units,
            where each kept position of a kernel is an edge; -inf if there is none.
    """

    layers: dict[str, LayerDiagnosis]
    log10_paths: float

    @property
    def density(self) -> float:
        """The fraction kept of the masked weights, as ``masking.density`` gives it: dense weights do not count."""
        masked = [layer for layer in self.layers.values() if layer.masked]
        return sum(layer.kept for layer in masked) / sum(layer.total for layer in masked)

    @property
    def empty(self) -> list[str]:
        """The layers that keep no weight."""
        return [name for name, layer in self.layers.items() if not layer.kept]

    @property
    def cut_off(self) -> list[str]:
        """The layers that keep weights, but none on a path from an input to an output."""
        return [name for name, layer in self.layers.items() if layer.used and layer.kept and not layer.on_paths]

    @property
    def collapsed(self) -> list[str]:
        """The layers that are empty or cut off; a shortcut may still lead around them."""
        return [name for name in self.layers if name in {*self.empty, *self.cut_off}]


def diagnose(network: nn.Module, input_shape: Sequence[int], masks: Mapping[str, Tensor] | None = None) -> Diagnosis:
    """Diagnose what masks leave of a network, which stays unchanged.

    Args:
        network: masked, with its own masks; or plain, with ``masks``.
        input_shape: of one sample, such as (channels, height, width) or (features,).
        masks: the boolean mask of each masked weight by its name; other weights are dense.

    Raises:
        ValueError: if the network's units cannot be followed, see ``unit_tracing.trace``.
    """
    if masks is None:
        masks = masking.masks(network)
        with masking.temporarily_unmasked(network):
            return diagnose(network, input_shape, masks)
    _check_masks(masks, network)
    graph = trace(network, input_shape, masks)
    weights = weights_of(network, masks)
    every = {name: torch.ones_like(each.parameter, dtype=torch.bool) for name, each in weights.items()} | dict(masks)
    kept = {name: mask.reshape(*mask.shape[:2], -1).sum(2).double().cpu().numpy() for name, mask in every.items()}
    into, onward = graph.log_paths(kept), graph.log_paths(kept, backward=True)
    layers = _layers(graph, kept, into > -np.inf, onward > -np.inf)
    return Diagnosis(
        {name: _layer(layers.get(name), mask, name in masks) for name, mask in every.items()},
        float(np.logaddexp2.reduce(into[graph.outputs] / math.log10(2)) * math.log10(2)),
    )


def _check_masks(masks: Mapping[str, Tensor], network: nn.Module) -> None:
    shapes = {name: tuple(each.shape) for name, each in network.named_parameters()}
    for name, mask in masks.items():
        if name not in shapes:
            raise unknown("weight in masks", name, shapes)
        if tuple(mask.shape) != shapes[name]:
            raise UserError(f"the mask of {name!r} has shape {tuple(mask.shape)}, and its weight {shapes[name]}")


def log10_path_kernel_trace(network: nn.Module, masks: Mapping[str, Tensor], input_shape: Sequence[int]) -> float:
    """Return log10 of Tr = sum over paths p and their kept weights k of (pi_p / w_k)^2 = sum_k dR2 / d(w_k^2).

    pi_p is the product of the weights along the path and of the scales of its norms and branches; a norm with running
    statistics scales by gamma / sqrt(var + eps). w_k is the effective weight, which for ``Biprop`` and a scaled
    ``Supermask`` differs from the drawn weight. R2 is the sum of the logits for a sample of ones, with every factor of
    pi_p squared and everything that is added (biases, means of norms, positions) set to 0. It is computed in float64
    and evaluation mode.

    All other operations stay as they are: a mean over n positions divides by n, not by n^2, and a max-pool takes the
    largest value. If activations do more than cut at 0, the result is not a sum over paths, but it still compares masks
    of one network. It does not if terms are negative, because the network subtracts: LayerNorm and GroupNorm subtract a
    mean, and attention weighs one token against another. Operations under ``torch.no_grad()`` count as constants.

    Args:
        network: masked, or plain with its effective weights; it stays unchanged.
        masks: the boolean mask of each masked weight by its name; other weights are dense.
        input_shape: of one sample, such as (channels, height, width) or (features,).

    Returns: a finite number, or -inf if there is no path.

    Raises:
        ValueError: if a term is negative, the sum exceeds float64's range (a ResNet-152 is at about 1e50), or the
            network does not compute in float64, has no gradient, or returns no logits, see ``logits_of``.
    """
    kind = type(network).__name__
    methods = {name: each.method for name, each in masked_weights(network).items()} if is_masked(network) else {}
    multiplier = multipliers(network) if methods else {}
    with (
        masking.temporarily_unmasked(network) if methods else nullcontext(),
        evaluating(network),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        squares: dict[str, Tensor] = {}
        parameters = dict(network.named_parameters())
        _check_masks(masks, network)
        for name in weights_of(network, masks):
            weight, mask = parameters[name].detach(), masks.get(name)
            if mask is not None:
                factor = mask * multiplier[name] if name in methods else mask
                weight = methods[name].effective_weight(weight, factor) if name in methods else weight * mask
            squares[name] = weight.double().square().requires_grad_()
        device = next(iter(squares.values())).device
        images = torch.ones((1, *input_shape), dtype=torch.float64, device=device)
        tensors = _other_factors_squared(network) | squares
        try:
            total = logits_of(network, functional_call(network, tensors, (images,))).sum()
            gradients = torch.autograd.grad(total, list(squares.values()), materialize_grads=True)
        except UserError:
            raise
        except Exception as error:  # whatever the network's own code raises
            raise UserError(
                f"{kind} does not compute in float64 for samples of shape {tuple(input_shape)}: {error}"
            ) from error
    above = below = 0.0
    for name, gradient in zip(squares, gradients, strict=True):
        terms = gradient[masks[name]] if name in masks else gradient
        above += float(terms.clamp(min=0).sum())
        below += float(terms.clamp(max=0).sum())
    if not math.isfinite(above + below):
        raise UserError(f"{kind} has no trace of the path kernel: the sum over paths exceeds the range of float64")
    if below < -1e-9 * above:  # not by rounding
        raise UserError(
            f"{kind} has no trace of the path kernel: terms of the sum are negative, because the network subtracts, as "
            "LayerNorm, GroupNorm and attention do"
        )
    return math.log10(above + below) if above else -math.inf


def _is_added(network: nn.Module, key: str, parameter: Tensor) -> bool:
    """Return whether a parameter is a shift, or a table that is added, such as the positions of tokens."""
    module = network.get_submodule(key.rpartition(".")[0])
    kind = kind_of(module, own_name(key), parameter)
    return kind == "shift" or (kind == "table" and not isinstance(module, nn.Embedding | nn.EmbeddingBag))


def _other_factors_squared(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers in float64 with which norms and branches scale by a square, and shift by 0."""
    tensors: dict[str, Tensor] = {}
    parameters = dict(network.named_parameters())
    added = {key for key, each in parameters.items() if _is_added(network, key, each)}
    for key, tensor in (*network.named_parameters(), *network.named_buffers()):
        owner, _, name = key.rpartition(".")
        value = tensor.detach().double() if tensor.is_floating_point() else tensor
        if key in added or name in ("bias", "running_mean"):
            value = torch.zeros_like(value)
        elif key in parameters or name == "weight":  # FrozenBatchNorm2d has its scale as a buffer
            value = value.square()
        elif name == "running_var":  # the norm adds eps and takes the root
            norm: Any = network.get_submodule(owner)
            if (eps := getattr(norm, "eps", None)) is None:
                raise UserError(
                    f"{type(network).__name__} has no trace of the path kernel: {type(norm).__name__} has running_var, "
                    "and no eps, which is added to it"
                )
            value = (value + eps).square() - eps
        tensors[key] = value
    return tensors


def overlap(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> tuple[float, dict[str, float]]:
    """Return kept by both / kept by either of two subnetworks of one network: of all masks together, and by layer.

    It is 1 if neither keeps anything. Two masks drawn independently at density d have about d / (2 - d).
    """
    pairs = {name: (mask & second[name], mask | second[name]) for name, mask in first.items()}
    counts = {name: (int(both.sum()), int(either.sum())) for name, (both, either) in pairs.items()}
    both, either = map(sum, zip(*counts.values(), strict=True))
    return _share(both, either), {name: _share(*each) for name, each in counts.items()}


def _share(both: int, either: int) -> float:
    return both / either if either else 1.0


class _Found(NamedTuple):
    wide: Mask  # by output unit
    alive: Mask  # by output unit
    on_paths: Float64  # the kept weights on paths, by connection in the layout of the weight

    def or_in(self, later: _Found) -> _Found:
        """Return what holds in this call of a layer or in a later one."""
        on_paths = np.maximum(self.on_paths, later.on_paths)
        if self.wide.shape != later.wide.shape:  # the later call uses the weight transposed: other units
            return self._replace(on_paths=on_paths)
        return _Found(self.wide | later.wide, self.alive | later.alive, on_paths)


def _layers(graph: UnitGraph, kept: Mapping[str, Float64], reached: Mask, leading: Mask) -> dict[str, _Found]:
    """Return the part of each layer that the kept weights use, by its name."""
    has_exit = np.zeros(graph.num_units + 1, np.bool_)  # units that an edge leaves; the last one is NOTHING
    has_exit[graph.outputs] = True
    found: dict[str, _Found] = {}
    for step in reversed(graph.steps):
        if isinstance(step, Merge):
            has_exit[step.sources[has_exit[step.targets]]] = True
            continue
        blocks = step.blocks(kept[step.name])
        known = step.sources != NOTHING
        sources_reached = np.where(known, reached[step.sources], False).reshape(step.groups, 1, -1)
        targets_leading = leading[step.targets].reshape(step.groups, -1, 1)
        here = _Found(
            blocks.any(axis=2).reshape(-1) & has_exit[step.targets],
            reached[step.targets] & leading[step.targets],
            step.from_blocks(blocks * sources_reached * targets_leading),
        )
        # The network may use a layer more than once.
        found[step.name] = here.or_in(found.get(step.name, here))
        has_exit[step.sources[known & blocks.any(axis=1).reshape(-1)]] = True
    return found


def _layer(found: _Found | None, mask: Tensor, masked: bool) -> LayerDiagnosis:
    return LayerDiagnosis(
        kept=int(mask.sum()),
        total=mask.numel(),
        on_paths=int(found.on_paths.sum()) if found else 0,
        units=len(found.wide) if found else len(mask),
        width=int(found.wide.sum()) if found else 0,
        alive=int(found.alive.sum()) if found else 0,
        used=found is not None,
        masked=masked,
    )
