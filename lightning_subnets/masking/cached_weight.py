"""The weights that masked layers compute with: made anew when something has changed, and not before.

That is once after each optimizer step, for all layers together, and never for the batches that are accumulated into
a step, nor in evaluation. torch tells of an optimizer's step, for fused optimizers change a parameter without a
trace; every other change shows in the version counter of a tensor. What leaves no trace is an edit in place of
``parameter.data``, and a collective of torch.distributed on a parameter: who does either calls ``forget_``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ReferenceType, WeakSet, ref

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from lightning_subnets.errors import UserError
from lightning_subnets.masking.method import masks

if TYPE_CHECKING:
    from lightning_subnets.masking.masked_network import MaskedLayer


class Source:
    """A tensor as it was, without keeping it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: ReferenceType[Tensor] = ref(tensor)
        # As long as this lives no other storage has its address.
        self.storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        # What was created in inference mode has no version.
        self.version = None if tensor.is_inference() else tensor._version

    def is_unchanged(self, tensor: Tensor) -> bool:
        return (
            tensor is self.tensor()
            and self.version is not None
            and tensor._version == self.version
            and tensor.untyped_storage()._cdata == self.storage.cdata
        )


class Made(NamedTuple):
    """The weight that a layer computes with, w * m, without gradient, and what it was made of."""

    product: Tensor
    mask: Tensor | None  # kept where the weight is trained, whose gradient it lets through
    num_kept: int | None
    sources: list[Source]

    def is_fresh(self, layer: MaskedLayer) -> bool:
        sources = _sources(self.product, layer)
        return (
            self.num_kept == layer.num_kept
            and self.product.dtype == _dtype(layer.weight)
            and (self.mask is not None or not layer.weight.requires_grad)
            and len(self.sources) == len(sources)
            and all(map(Source.is_unchanged, self.sources, sources))
        )


_layers: WeakSet[MaskedLayer] = WeakSet()  # all whose weights were made
_lock = Lock()  # on the set: networks may be trained in several threads


def made(layer: MaskedLayer) -> tuple[Tensor, Tensor | None]:
    """The w * m of a layer, without gradient, in the precision of autocast where that is on; and m, if w is trained.

    Raises:
        ValueError: if a score on a CPU is NaN.
    """
    kept = layer.made
    if not torch.compiler.is_compiling():
        return (kept if kept and kept.is_fresh(layer) else _make([layer], [_dtype(layer.weight)])[0])[:2]
    if layer.refreshed_outside:
        assert kept is not None, "a network compiled by compile_ needs refresh_ before each forward pass"
        return kept[:2]
    # A graph cannot see whether something has changed.
    mask = layer.mask()
    return layer.method.product(layer.weight.detach(), mask).to(_dtype(layer.weight)), mask


def compile_(network: nn.Module, layers: Iterable[MaskedLayer]) -> None:
    """Compile a masked network in place by ``torch.compile``, for one who calls ``refresh_`` before each forward pass.

    Without this, ``torch.compile(network)`` chooses the masks in the graph, in every forward pass.
    """
    for layer in layers:
        layer.refreshed_outside = True
    # A smaller last batch would otherwise turn every later one over to a slower graph for batches of any size. With
    # images of several sizes, in training and evaluation, there may be more than the 8 graphs that torch allows.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    network.compile(dynamic=False)


def refresh_(layers: Iterable[MaskedLayer]) -> None:
    """Make the masked weights of those layers that have none, or whose weight, scores or precision have changed.

    Raises:
        ValueError: if a score on a CPU is NaN.
    """
    stale = [layer for layer in layers if layer.method.made_before and not (layer.made and layer.made.is_fresh(layer))]
    _make(stale, [_dtype(layer.weight) for layer in stale])


def forget_(layers: Iterable[MaskedLayer]) -> None:
    """Have the masked weights of these layers made anew when they are needed next; for edits that leave no trace."""
    for layer in layers:
        layer.made = None
        with _lock:
            _layers.discard(layer)


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    with _lock:
        used = [(layer, layer.made) for layer in _layers]
    stale = [(layer, made.product.dtype) for layer, made in used if made and _is_of(layer, stepped)]
    forget_(layer for layer, _ in stale)
    with suppress(UserError):  # the next forward pass will tell of it
        _make([layer for layer, _ in stale], [dtype for _, dtype in stale])


register_optimizer_step_post_hook(_after_step)


def _sources(product: Tensor, layer: MaskedLayer) -> list[Tensor]:
    scores = (peer.scores for peer in layer.peers or (layer,))
    return [product, layer.weight, *(each for each in scores if each is not None)]


def _is_of(layer: MaskedLayer, parameters: set[int]) -> bool:
    return id(layer.weight) in parameters or id(layer.scores) in parameters


def _make(layers: list[MaskedLayer], dtypes: list[torch.dtype]) -> list[Made]:
    wanted = dict(zip(layers, dtypes, strict=True))
    for layer in layers:  # where one changes the masks of all
        wanted |= {peer: _dtype(peer.weight) for peer in layer.peers if peer not in wanted}
    together = defaultdict(list)
    for layer, dtype in wanted.items():
        together[id(layer.method), layer.weight.device].append((layer, dtype))
    made = {}
    # Made in an evaluation, they may be used in training next, where tensors of inference mode are refused.
    with torch.inference_mode(False), torch.no_grad():
        for group in together.values():
            for (layer, dtype), mask in zip(group, masks([layer for layer, _ in group]), strict=True):
                weight = layer.weight
                # In new memory, for a graph may still need the old. As bytes: a product with bool takes a CPU twice
                # as long.
                out = torch.empty_like(weight, dtype=dtype)
                product = layer.method.product(weight, mask.view(torch.uint8), out=out)
                sources = [Source(tensor) for tensor in _sources(product, layer)]
                kept = mask if weight.requires_grad else None
                layer.made = made[layer] = Made(product, kept, layer.num_kept, sources)
                with _lock:
                    _layers.add(layer)
    return [made[layer] for layer in layers]


def _dtype(weight: Tensor) -> torch.dtype:
    kind, dtype = weight.device.type, weight.dtype
    if dtype == torch.float32 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return dtype
