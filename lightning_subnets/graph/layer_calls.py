"""The calls of layers in a recorded forward pass: operations that multiply their input by a weight."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

import torch
from torch.fx import Node

from lightning_subnets.graph.recording import arguments_of, name_of

_LAYERS = {"linear", "convolution", "conv1d", "conv2d", "conv3d"}
_LAYERS |= {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
# Operations that multiply two tensors, and may add a third; their arguments have these names.
PRODUCTS: dict[str, tuple[str, ...]] = {"matmul": ("self", "other"), "mm": ("self", "mat2"), "bmm": ("self", "mat2")}
PRODUCTS |= {"addmm": ("mat1", "mat2", "self"), "baddbmm": ("batch1", "batch2", "self")}
# A weight stays a weight through these.
_CASTING = {"to", "_to_copy", "type_as", "detach", "alias", "clone", "contiguous"}
_TRANSPOSING = {"t", "numpy_T", "mT", "transpose", "permute"}


class LayerCall(NamedTuple):
    """One call of a layer.

    Attributes:
        input, weight: the nodes of the layer's input and of its weight.
        groups: of a convolution; 1 for a Linear.
        transposed: whether the weight's layout is (in, out / groups, ...), as in a transposed convolution, in place of
            (out, in / groups, ...).
        added: the node of a tensor that is added and is not a bias, or None.
    """

    input: Node
    weight: Node
    groups: int
    transposed: bool
    added: Node | None = None


class NamedWeight(NamedTuple):
    """A weight of the network, which casts and transpositions carry from node to node."""

    name: str
    transposed: bool

    def after(self, node: Node) -> NamedWeight | None:
        """Return the weight after an operation on it alone, or None if its numbers are no longer those of a weight."""
        before = node.all_input_nodes[0].meta["val"]
        if name_of(node) in _CASTING:
            return self
        if name_of(node) in _TRANSPOSING and before.dim() == 2:
            probe: Any = torch.empty(2, 3, device="cpu")  # strides do not tell: (n, 1) has those of its transpose
            swapped = node.target(probe, *node.args[1:], **node.kwargs).shape != probe.shape  # type: ignore[operator]
            return self._replace(transposed=self.transposed != swapped)
        return None


def layer_call(node: Node, weights: Container[str]) -> LayerCall | None:
    """Return the call of a layer at a node, or None; ``weights`` are the names of the nodes of weights."""
    name = name_of(node).removesuffix("_")
    if name in _LAYERS:
        arguments = arguments_of(node)
        transposed = arguments.get("transposed", name.startswith("conv_transpose"))
        return LayerCall(arguments["input"], arguments["weight"], arguments.get("groups", 1), transposed)
    if name in PRODUCTS:
        input_, weight, *added = (arguments_of(node)[each] for each in PRODUCTS[name])
        if weight.name in weights and weight.meta["val"].dim() == 2:  # (in, out)
            return LayerCall(input_, weight, 1, transposed=True, added=added[0] if added else None)
    return None
