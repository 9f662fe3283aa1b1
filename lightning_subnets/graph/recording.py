"""Record a network's forward pass as a graph of operations, without computing anything."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from lightning_subnets.errors import UserError

# These operations take tensors but use none of their values.
IGNORING_VALUES = {"zeros_like", "ones_like", "full_like", "empty_like", "zero", "zero_", "fill", "fill_"}


def record(network: nn.Module, input_shape: Sequence[int], like: Tensor) -> ExportedProgram:
    """Record a plain network in evaluation mode, for images with the device and the dtype of the tensor ``like``."""
    kind = type(network).__name__
    # Two images, because squeeze() would remove a batch dimension of 1.
    images = torch.zeros(2, *input_shape, device=like.device, dtype=like.dtype)
    with evaluating(network), silent_export(), _without_fused_attention():
        try:
            program = torch.export.export(network, (images,))
            return program.run_decompositions({}) if _has_blocks(program) or _writes_into_views(program) else program
        except Exception as error:  # whatever the network's own code raises
            reason = str(error).strip().splitlines()
            raise UserError(
                f"the units of {kind} cannot be followed for images of shape {tuple(input_shape)}: torch.export "
                f"fails on the forward pass: {type(error).__name__}{f': {reason[0]}' if reason else ''}. "
                "Give the shape that the network is made for, or take a method that does not need paths"
            ) from error


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode inside the context, then restore the attributes of each module.

    A forward pass may set attributes and use them in the next one, such as the position biases of timm's LeViT.
    """
    before = [(vars(module), dict(vars(module))) for module in network.modules()]
    kept = [(each, list(each)) for _, values in before for each in values.values() if isinstance(each, list)]
    held = [(each, dict(each)) for _, values in before for each in values.values() if isinstance(each, dict)]
    network.eval()
    try:
        yield
    finally:
        for attributes, values in before:
            attributes.clear()
            attributes.update(values)
        for numbered, items in kept:
            numbered[:] = items
        for named, content in held:
            named.clear()
            named.update(content)


@contextmanager
def silent_export() -> Iterator[None]:
    """Silence what torch.export tells besides the error that it raises: log records, and the graph up to the error."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Make ``nn.MultiheadAttention`` run its single operations also if no gradient is needed."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _has_blocks(program: ExportedProgram) -> bool:
    """Return whether a block of ``torch.no_grad()`` or ``torch.autocast`` is recorded as a program of its own.

    A functional recording puts its operations in its place.
    """
    return any(isinstance(node.target, torch._ops.HigherOrderOperator) for node in program.graph.nodes)


def _writes_into_views(program: ExportedProgram) -> bool:
    """Return whether an in-place operation writes into a view, so that the recording must be made functional.

    A functional recording takes three times as long; ``out += shortcut`` and in-place activations do not need it.
    """
    for node in program.graph.nodes:
        name = name_of(node)
        in_place = node.op == "call_function" and name.endswith("_")
        if in_place and (len(node.all_input_nodes) > 1 or name in IGNORING_VALUES):
            written = node.args[0]
            if name == "copy_" or _is_view(written) or any(_is_view(user) for user in written.users):
                return True
    return False


def _is_view(node: Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return True
    returned = node.target._schema.returns  # type: ignore[union-attr]
    return any(value.alias_info is not None and not value.alias_info.is_write for value in returned)


def arguments_of(node: Node) -> dict[str, Any]:
    """Return the arguments of an aten operation by name, with its defaults."""
    schema: Any = node.target._schema  # type: ignore[union-attr]
    defaults = {each.name: each.default_value for each in schema.arguments if each.has_default_value()}
    given = zip((each.name for each in schema.arguments), node.args, strict=False)
    return defaults | dict(given) | dict(node.kwargs)


def name_of(node: Node) -> str:
    """Return ``add_`` for ``aten.add_.Tensor``."""
    return getattr(node.target, "_opname", "") or getattr(node.target, "__name__", str(node.target))
