"""Trace the unit graph of a network through its recorded forward pass."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from lightning_subnets.errors import UserError
from lightning_subnets.graph.recording import EMPTYING, name_of, record
from lightning_subnets.graph.unit_graph import NOTHING, Edges, Merge, UnitGraph
from lightning_subnets.masking.maskable import maskable_layers

# Names of aten operations, without the underscore of in-place variants.
# These only move elements; tracing runs them on the numbers of units.
_MOVING = {"view", "_unsafe_view", "reshape", "view_as", "reshape_as", "permute", "transpose", "t", "movedim"}
_MOVING |= {"flatten", "unflatten", "squeeze", "unsqueeze", "cat", "concat", "stack", "expand", "expand_as", "repeat"}
_MOVING |= {"split", "split_with_sizes", "chunk", "tensor_split", "slice", "select", "narrow", "unbind", "clone"}
_MOVING |= {"repeat_interleave", "roll", "flip", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "contiguous"}
_MOVING |= {"slice_scatter", "select_scatter", "copy"}
# These map each element of the first tensor to one element, but torch does not tag them as pointwise.
_KEEPING = {"batch_norm", "_native_batch_norm_legit_no_training", "layer_norm", "native_layer_norm", "group_norm"}
_KEEPING |= {"native_group_norm", "instance_norm", "rms_norm", "softmax", "_softmax", "log_softmax", "_log_softmax"}
_KEEPING |= {"dropout", "feature_dropout", "alpha_dropout", "hardswish", "alias", "detach", "to", "_to_copy", "type_as"}
# These join positions along this number of last dimensions, and change the size of the feature map.
_POOLING = {"max_pool2d": 2, "max_pool2d_with_indices": 2, "avg_pool2d": 2, "adaptive_avg_pool2d": 2}
_POOLING |= {"_adaptive_avg_pool2d": 2, "adaptive_max_pool2d": 2, "upsample_nearest2d": 2, "upsample_bilinear2d": 2}
_POOLING |= {"upsample_bicubic2d": 2, "adaptive_avg_pool1d": 1, "avg_pool1d": 1, "max_pool1d": 1, "avg_pool3d": 3}
# These join elements along the dimensions in their second argument.
_REDUCING = {"mean", "sum", "amax", "amin"}


def trace(network: nn.Module, input_shape: Sequence[int]) -> UnitGraph:
    """Return the graph of a plain network's units, for images (channels, height, width); the network stays unchanged.

    torch.export records the forward pass in evaluation mode, without computing anything. Tracing then replaces every
    tensor by one that holds, for each element, the number of its unit. Operations that move elements run on these
    numbers; other operations join units or make new ones. A layer that evaluation skips, such as an auxiliary
    classifier, is not in the graph.

    Raises:
        ValueError: if the network cannot be recorded for such images, or has an operation through which units cannot
            be followed, such as attention; the message names the operation.
    """
    layers = maskable_layers(network)
    program = record(network, input_shape, next(iter(layers.values())).weight)
    names = {layer.weight: name for name, layer in layers.items()}
    parameters = {
        node: names[parameter]
        for node, key in program.graph_signature.inputs_to_parameters.items()
        if (parameter := network.get_parameter(key)) in names
    }
    return _Tracing(network, layers, parameters).run(program)


class _Tracing:
    """Follow units through a recorded forward pass.

    A tensor of units has the shape of the tensor that it replaces. It is expanded along dimensions where units do not
    change, such as the positions of a feature map, so that large maps take no memory.
    """

    def __init__(
        self, network: nn.Module, layers: dict[str, nn.Conv2d | nn.Linear], parameters: dict[str, str]
    ) -> None:
        self.kind, self.layers, self.parameters = type(network).__name__, layers, parameters
        self.num_units = 0
        self.steps: list[Edges | Merge] = []
        self.units: dict[Node, Any] = {}

    def run(self, program: ExportedProgram) -> UnitGraph:
        signature = program.graph_signature
        inputs = results = torch.zeros(0, dtype=torch.int64)
        for node in program.graph.nodes:
            if node.op == "placeholder":
                value = node.meta["val"]
                self.units[node] = _constant(value)
                if node.name in signature.user_inputs:
                    inputs = self._new(value.shape[1])
                    self.units[node] = inputs.view(1, -1, 1, 1).expand(value.shape)
            elif node.op == "call_function":
                self.units[node] = self._units_of(node)
            elif node.op == "output":
                returned = [self.units[each] for each in node.args[0] if each.name in signature.user_outputs]
                results = torch.cat([_compact(units).flatten() for units in returned])
        outputs = np.unique(results.numpy())
        return UnitGraph(self.num_units, inputs.numpy(), outputs[outputs != NOTHING], tuple(self.steps))

    def _units_of(self, node: Node) -> Any:
        target: Any = node.target
        arguments: Any = node.args
        value: Any = node.meta.get("val")
        name = name_of(node).removesuffix("_")
        if target is operator.getitem:
            return self.units[arguments[0]][arguments[1]]
        operands: list[Tensor] = [units for each in node.all_input_nodes for units in _flat(self.units[each])]
        result: Any
        if not _flat(value):
            result = None  # an assertion, or a number
        elif (
            name.startswith("new_")
            or name in EMPTYING
            or not any((_compact(units) != NOTHING).any() for units in operands)
        ):
            result = _map(_constant, value)
        elif name in {"conv2d", "linear"}:
            result = self._through_layer(node, value)
        elif name in _MOVING:
            args, kwargs = torch.fx.map_arg((arguments, node.kwargs), lambda each: self.units[each])
            result = _map(_tidy, target(*args, **kwargs))
        elif name == "pad":
            result = self._padded(operands[0], value, *arguments[1:])
        elif name in _KEEPING:
            result = _first(operands[0], value)
        elif torch.Tag.pointwise in target.tags:
            result = self._joined(operands).expand(value.shape)
        elif name in _POOLING:
            result = _first(self._along(operands[0], range(-_POOLING[name], 0)), value)
        elif name in _REDUCING:
            result = self._reduced(operands[0], arguments[1] if len(arguments) > 1 else None).reshape(value.shape)
        else:
            raise UserError(
                f"the units of {self.kind} cannot be followed through {target}: known are convolutions, linear "
                "layers, norms, pooling, element by element operations, and those that move, split or join channels. "
                "Use a method that does not need paths"
            )
        if name_of(node).endswith("_"):
            self.units[arguments[0]] = result
        return result

    def _new(self, count: int) -> Tensor:
        self.num_units += count
        return torch.arange(self.num_units - count, self.num_units)

    def _through_layer(self, node: Node, value: Tensor) -> Tensor:
        images, weight = node.all_input_nodes[:2]
        if weight.name not in self.parameters:
            raise UserError(
                f"the units of {self.kind} cannot be followed through {node.target}, because its weight is not that "
                "of a torch.nn.Conv2d or torch.nn.Linear. Use a method that does not need paths"
            )
        name = self.parameters[weight.name]
        layer = self.layers[name]
        channel, groups = (1, layer.groups) if isinstance(layer, nn.Conv2d) else (value.dim() - 1, 1)
        units = self.units[images]
        sources = self._reduced(units, [dim for dim in range(units.dim()) if dim != channel]).reshape(-1)
        targets = self._new(value.shape[channel])
        self.steps.append(Edges(name, sources.numpy(), targets.numpy(), groups))
        return targets.view([-1 if dim == channel else 1 for dim in range(value.dim())]).expand(value.shape)

    def _padded(self, units: Tensor, value: Tensor, sizes: list[int], mode: str = "constant", *_: object) -> Tensor:
        if mode != "constant":  # reflected, or repeated
            return self._along(units, range(-len(sizes) // 2, 0)).expand(value.shape)
        return torch.constant_pad_nd(units, sizes, NOTHING)

    def _reduced(self, units: Tensor, dims: Any) -> Tensor:
        dims = {dim % units.dim() for dim in ([dims] if isinstance(dims, int) else dims or range(units.dim()))}
        shape = [1 if dim in dims else size for dim, size in enumerate(units.shape)]
        return self._along(units, sorted(dims)).expand(shape)

    def _joined(self, operands: list[Tensor]) -> Tensor:
        """Merge each distinct pair of units that meet into a new unit; NOTHING and a unit give the unit."""
        result, *others = (_compact(units) for units in operands)
        for other in others:
            shape = torch.broadcast_shapes(result.shape, other.shape)  # type: ignore[no-untyped-call]
            first, second = result.expand(shape), other.expand(shape)
            meeting = (first != second) & (first != NOTHING) & (second != NOTHING)
            result = torch.where(first == NOTHING, second, first)
            if meeting.any():
                pairs, which = _distinct_columns(torch.stack([first[meeting], second[meeting]]))
                joined = self._new(pairs.shape[1])
                self._merge(pairs.flatten(), joined.repeat(2))
                result = result.masked_scatter(meeting, joined[which])
        return result

    def _along(self, units: Tensor, dims: Sequence[int]) -> Tensor:
        """Reduce these dimensions to size 1: where units differ along them, merge the units into a new one."""
        units, dims = _compact(units), tuple(dims)
        largest = units.amax(dims, keepdim=True)
        smallest = torch.where(units == NOTHING, largest, units).amin(dims, keepdim=True)
        several = largest != smallest
        if several.any():
            largest = largest.masked_scatter(several, self._new(int(several.sum())))
            meeting = several & (units != NOTHING)
            pairs, _ = _distinct_columns(torch.stack([units[meeting], largest.expand(units.shape)[meeting]]))
            self._merge(pairs[0], pairs[1])
        return largest

    def _merge(self, sources: Tensor, targets: Tensor) -> None:
        self.steps.append(Merge(sources.numpy(), targets.numpy()))


def _flat(value: Any) -> list[Tensor]:
    several = value if isinstance(value, list | tuple) else [value]
    return [each for each in several if isinstance(each, Tensor)]


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    return tuple(map(function, value)) if isinstance(value, list | tuple) else function(value)


def _constant(value: Tensor) -> Tensor:
    return torch.full((), NOTHING).expand(value.shape)


def _first(units: Tensor, value: Any) -> Any:
    """Give an operation's first result these units, and its other results none."""
    if isinstance(value, Tensor):
        return units.expand(value.shape)
    return (units.expand(value[0].shape), *map(_constant, value[1:]))


def _compact(units: Tensor) -> Tensor:
    for dim in range(units.dim()):
        if units.stride(dim) == 0:
            units = units.narrow(dim, 0, 1)
    return units


def _tidy(units: Tensor) -> Tensor:
    """Expand every dimension along which units do not change."""
    for dim in range(units.dim()):
        compact = _compact(units)
        if (compact == compact.narrow(dim, 0, 1)).all():
            units = units.narrow(dim, 0, 1).expand(units.shape)
    return units


def _distinct_columns(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct columns of a matrix, and for each column the index of its distinct one."""
    columns, which = torch.unique(rows, dim=1, return_inverse=True)
    return columns, which
