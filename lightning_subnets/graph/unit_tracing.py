"""Trace the unit graph of a network through its recorded forward pass."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Container, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from lightning_subnets.errors import UserError
from lightning_subnets.graph.layer_calls import PRODUCTS, LayerCall, NamedWeight, layer_call
from lightning_subnets.graph.recording import IGNORING_VALUES, arguments_of, name_of, record
from lightning_subnets.graph.unit_graph import NOTHING, UnitGraph
from lightning_subnets.graph.unit_tensors import (
    GraphBuilder,
    compact,
    constant,
    is_constant,
    spread_along,
    tensors_of,
    tidy,
    units_of_results,
)
from lightning_subnets.masking.maskable import weights_of

# Names of aten operations, without the underscore of in-place variants.
# These only move elements; tracing runs them on the numbers of units.
_MOVING = {"view", "_unsafe_view", "reshape", "view_as", "reshape_as", "permute", "transpose", "t", "movedim"}
_MOVING |= {"flatten", "unflatten", "squeeze", "unsqueeze", "cat", "concat", "stack", "expand", "expand_as", "repeat"}
_MOVING |= {"split", "split_with_sizes", "chunk", "tensor_split", "slice", "select", "narrow", "unbind", "clone"}
_MOVING |= {"repeat_interleave", "roll", "flip", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "contiguous"}
_MOVING |= {"slice_scatter", "select_scatter", "copy", "swapaxes", "tile", "unfold"}
# The result has the units of the first tensor; the others, such as the scale of a norm, join nothing.
_KEEPING = {"batch_norm", "_native_batch_norm_legit_no_training", "layer_norm", "native_layer_norm", "group_norm"}
_KEEPING |= {"native_group_norm", "instance_norm", "rms_norm", "softmax", "_softmax", "log_softmax", "_log_softmax"}
_KEEPING |= {"prelu", "log_sigmoid"}
_KEEPING |= {"dropout", "feature_dropout", "alpha_dropout", "hardswish", "alias", "detach", "to", "_to_copy", "type_as"}
# The result joins the units of all tensors, as for operations that torch tags as pointwise.
_POINTWISE = {"where", "subtract", "multiply", "divide", "floor_divide", "negative", "absolute"}
# These join positions along as many last dimensions as their names say, and change the size of the feature map.
_POOLING = re.compile(r"(?:_?(?:adaptive_)?(?:avg|max)_pool|upsample_[a-z]+)([123])d")
# These join elements along the dimensions in their argument ``dim``.
_REDUCING = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "norm", "linalg_vector_norm", "logsumexp"}


def trace(network: nn.Module, input_shape: Sequence[int], masked: Container[str] = ()) -> UnitGraph:
    """Return the graph of a plain network's units, for samples of this shape; the network stays unchanged.

    torch.export records the forward pass in evaluation mode, without computing anything. Tracing then replaces every
    tensor by one that holds, for each element, the number of its unit. Operations that move elements run on these
    numbers; other operations join units or make new ones. A layer that evaluation skips, such as an auxiliary
    classifier, is not in the graph, and neither is a layer whose input is a constant, such as one for position biases.

    The inputs of the graph are the channels of (channels, height, width) and (channels, length), or the features of
    (features,), and of (tokens, features) if the network starts with a Linear or multiplies by a weight as one does.
    Tokens are joined like positions.

    A product joins its factors, as in squeeze-and-excitation, and so does attention: softmax(queries keys^T) values.
    Each output feature of a head joins the same feature of its values with a unit of the head, which joins the head's
    queries and keys. So the weights of queries and keys lie on paths, and a feature of the values reaches the output
    without them too: without queries or keys, attention is a mean over tokens.

    The weights are those that are weights by their names, and parameters whose names are in ``masked``, if the network
    multiplies by them as by the weight of a layer; where it does not, such as by adding a table, they are constants.

    Raises:
        ValueError: if the network cannot be recorded for such samples, or has an operation through which units cannot
            be followed, or a weight whose zeros are not missing edges, because the network standardises it, cuts it
            into parts, or multiplies by it element by element; the message names the operation. ``MultiheadAttention``
            cuts ``in_proj_weight`` into parts if queries, keys and values come from different tensors.
    """
    found = weights_of(network, masked)
    names = {each.parameter: name for name, each in found.items()}
    program = record(network, input_shape, next(iter(names)))
    parameters = dict(network.named_parameters(remove_duplicate=False))
    weights = {
        node: NamedWeight(names[parameter], transposed=False)
        for node, key in program.graph_signature.inputs_to_parameters.items()
        if (parameter := parameters[key]) in names
    }
    with torch.device("cpu"):  # the numbers of units, even if new tensors are on a GPU by default
        maybe = {name for name, each in found.items() if not each.named}
        return _Tracer(type(network).__name__, weights, maybe).run(program)


class _Tracer:
    """Follow units through a recorded forward pass of a network of this kind.

    Args:
        weights: by the name of the node.
        maybe: the names of the weights that are constants where they are not used as the weight of a layer.
    """

    def __init__(self, kind: str, weights: dict[str, NamedWeight], maybe: set[str]) -> None:
        self.kind, self.weights, self.maybe = kind, weights, maybe
        self.builder = GraphBuilder()
        self.units: dict[Node, Any] = {}

    def run(self, program: ExportedProgram) -> UnitGraph:
        signature = program.graph_signature
        inputs = results = torch.zeros(0, dtype=torch.int64)
        for node in program.graph.nodes:
            value = node.meta.get("val")
            if node.op == "output":
                returned = [
                    each for each in node.args[0] if isinstance(each, Node) and each.name in signature.user_outputs
                ]
                results = torch.cat([results, *(compact(self.units[each]).flatten() for each in returned)])
            elif node.op == "call_function":
                self.units[node] = self._followed(node)
            elif node.name in signature.user_inputs:
                dim = _dim_of_units(node, self.weights)
                inputs = self.builder.new(value.shape[dim])
                self.units[node] = spread_along(inputs, dim, value.shape)
            else:
                self.units[node] = constant(value) if isinstance(value, Tensor) else None
        outputs = np.unique(results.numpy())
        steps = tuple(self.builder.steps)
        return UnitGraph(self.builder.num_units, inputs.numpy(), outputs[outputs != NOTHING], steps)

    def _followed(self, node: Node) -> Any:
        try:
            return self._units_of(node)
        except UserError:
            raise
        except Exception as error:  # an overload that tracing does not know
            raise self._refused(node, f"{type(error).__name__}: {error}".splitlines()[0]) from error

    def _refused(self, node: Node, reason: str) -> UserError:
        return UserError(
            f"the units of {self.kind} cannot be followed through {node.target}: {reason}. "
            "Use a method that does not need paths"
        )

    def _units_of(self, node: Node) -> Any:
        value: Any = node.meta.get("val")
        name = name_of(node).removesuffix("_")
        if node.target is operator.getitem:
            return self.units[node.args[0]][node.args[1]]  # type: ignore[index]
        if not tensors_of(value):
            return None  # an assertion, or a number
        operands: list[Tensor] = [units for each in node.all_input_nodes for units in tensors_of(self.units[each])]
        call = layer_call(node, self.weights)
        used = [call.input] if call else node.all_input_nodes[:1] if name == "type_as" else node.all_input_nodes
        weights = [self.weights[each.name] for each in used if each.name in self.weights]
        result: Any
        if name.startswith("new_") or name in IGNORING_VALUES:
            result = _map(constant, value)
        elif weights and self._stays(node, weights):
            result = constant(value)
        elif all(map(is_constant, operands)):
            result = _map(constant, value)
        elif call:
            result = self._through(node, call, value)
        else:
            result = self._without_layer(node, name, value, operands)
        if name_of(node).endswith("_"):
            self.units[node.args[0]] = result  # type: ignore[index]
        return result

    def _stays(self, node: Node, weights: list[NamedWeight]) -> bool:
        """Return whether an operation on weights gives a weight, and note it; otherwise they must be constants."""
        if after := weights[0].after(node):
            self.weights[node.name] = after
        elif certain := [each.name for each in weights if each.name not in self.maybe]:
            raise self._refused(node, f"it uses {certain[0]}, but not as the weight of a layer")
        return after is not None

    def _through(self, node: Node, call: LayerCall, value: Tensor) -> Tensor:
        units = self.units[call.input]
        channel = value.dim() - call.weight.meta["val"].dim() + 1
        sources = self.builder.merged_along(units, [dim for dim in range(units.dim()) if dim != channel])
        sources = sources.reshape(-1).expand(units.shape[channel])
        if weight := self.weights.get(call.weight.name):
            transposed = call.transposed != weight.transposed
            targets = self.builder.layer(weight.name, sources, value.shape[channel], call.groups, transposed)
        elif is_constant(self.units[call.weight]):  # such as a blur: each input of a group leads to each output
            merged = self.builder.merged_along(sources.reshape(call.groups, -1), [1])
            targets = merged.expand(call.groups, value.shape[channel] // call.groups).reshape(-1)
        else:
            raise self._refused(node, "its weight is computed from the input")
        result = spread_along(targets, channel, value.shape)
        return self.builder.merged([result, self.units[call.added]]).expand(value.shape) if call.added else result

    def _without_layer(self, node: Node, name: str, value: Any, operands: list[Tensor]) -> Any:
        target: Any = node.target
        if name in {"view", "_unsafe_view"}:  # units do not lie in memory as the network's numbers do
            return tidy(operands[0].reshape(value.shape))
        if name in _MOVING:
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda each: self.units[each])
            return _map(tidy, target(*args, **kwargs))
        if name in {"pad", "constant_pad_nd"}:
            return self._padded(operands[0], value, *node.args[1:])  # type: ignore[arg-type]
        if name in _KEEPING:
            return units_of_results(operands[0], value)
        if torch.Tag.pointwise in getattr(target, "tags", ()) or name in _POINTWISE:
            return self.builder.merged(operands).expand(value.shape)
        if pooled := _POOLING.fullmatch(name.removesuffix("_with_indices")):
            return units_of_results(self.builder.merged_along(operands[0], range(-int(pooled[1]), 0)), value)
        if name in _REDUCING:
            merged = self.builder.reduced(operands[0], arguments_of(node).get("dim"))
            return units_of_results(merged.reshape(tensors_of(value)[0].shape), value)
        if name in PRODUCTS:
            first, second, *added = (self.units[arguments_of(node)[key]] for key in PRODUCTS[name])
            return self.builder.merged([self.builder.product(first, second), *added]).expand(value.shape)
        if name == "einsum":
            equation, factors = cast(tuple[str, list[Node]], node.args[:2])  # all_input_nodes names a factor only once
            return self.builder.einsum(equation, [self.units[each] for each in factors]).expand(value.shape)
        if name == "scaled_dot_product_attention":
            return self._attention(arguments_of(node)).expand(value.shape)
        raise self._refused(
            node,
            "known are convolutions, linear layers, attention, norms, pooling, element by element operations, and "
            "those that move, split or join channels",
        )

    def _attention(self, arguments: dict[str, Any]) -> Tensor:
        query, key, value = (self.units[arguments[each]] for each in ("query", "key", "value"))
        weights = self.builder.product(query, key.transpose(-2, -1))
        if arguments["attn_mask"] is not None:
            weights = self.builder.merged([weights, self.units[arguments["attn_mask"]]])
        return self.builder.product(weights, value)

    def _padded(self, units: Tensor, value: Tensor, sizes: list[int], mode: str = "constant", *_: object) -> Tensor:
        if mode != "constant":  # reflected, or repeated
            return self.builder.merged_along(units, range(-len(sizes) // 2, 0)).expand(value.shape)
        return torch.constant_pad_nd(units, sizes, NOTHING)


def _dim_of_units(images: Node, weights: dict[str, NamedWeight]) -> int:
    """Return the dimension of the network's input along which its units differ."""
    shape, reached = images.meta["val"].shape, {images}
    weights = dict(weights)
    for node in images.graph.nodes:
        before = weights.get(node.all_input_nodes[0].name) if node.all_input_nodes else None
        if before and (after := before.after(node)):
            weights[node.name] = after
        if reached.isdisjoint(node.all_input_nodes):
            continue
        if call := layer_call(node, weights):
            linear = call.weight.meta["val"].dim() == 2 and call.input.meta["val"].shape[-1] == shape[-1]
            return 2 if linear and len(shape) == 3 else 1
        reached.add(node)
    return 1


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    return tuple(map(function, value)) if isinstance(value, list | tuple) else function(value)
