"""A network's forward pass as a graph of operations, recorded without computing anything."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from lightning_subnets.errors import UserError

# These have tensors for arguments and none of their values in the result.
EMPTYING = {"zeros_like", "ones_like", "full_like", "empty_like", "zero", "zero_", "fill", "fill_"}


def record(network: nn.Module, input_shape: Sequence[int], like: Tensor) -> ExportedProgram:
    """What a network does with images of one shape in evaluation, operation by operation; it stays as it was.

    Args:
        input_shape: of one image, (channels, height, width).
        like: a tensor of the device and the precision that images have.

    Raises:
        ValueError: if its forward pass cannot be recorded with such images.
    """
    kind = type(network).__name__
    # Two images, as a single one would let squeeze() take the dimension of the batch.
    images = torch.zeros(2, *input_shape, device=like.device, dtype=like.dtype)
    with evaluating(network), _without_log():
        try:
            program = torch.export.export(network, (images,))
            return program.run_decompositions({}) if _writes_into_views(program) else program
        except Exception as error:  # whatever the network's own code raises
            reason = str(error).strip().splitlines()
            raise UserError(
                f"the units of {kind} cannot be followed for images of shape {tuple(input_shape)}, as torch.export "
                f"does not get through its forward pass: {type(error).__name__}{f': {reason[0]}' if reason else ''}. "
                "Give the shape that it is made for, or take a method that does not need paths"
            ) from error


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, for as long as the context lasts; then each module is in the one it was in."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _without_log() -> Iterator[None]:
    """What is raised says it; torch would print a traceback of its own on top."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _writes_into_views(program: ExportedProgram) -> bool:
    """Whether an operation in place brings units into what another tensor is a part of: a recording to be rewritten.

    That takes twice as long as the recording itself; ``out += shortcut`` and activations in place do without.
    """
    for node in program.graph.nodes:
        name = name_of(node)
        if node.op == "call_function" and name.endswith("_") and (len(node.all_input_nodes) > 1 or name in EMPTYING):
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


def name_of(node: Node) -> str:
    """``add_`` of ``aten.add_.Tensor``."""
    return getattr(node.target, "_opname", "") or getattr(node.target, "__name__", str(node.target))
