"""The cache of effective weights, w * m: recomputed only when weight or scores have changed.

The cache recomputes all layers together after each optimizer step; accumulated batches and evaluation reuse the result.
Changes show in a tensor's version counter. Fused optimizers do not advance the counter, so a hook on
``Optimizer.step`` reports their steps. Two changes leave no trace: an in-place edit of ``parameter.data`` and a
torch.distributed collective on a parameter. Call ``invalidate_`` after them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, NamedTuple, Protocol
from weakref import ReferenceType, WeakSet, ref

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from lightning_subnets.errors import UserError
from lightning_subnets.masking.method import ScoredLayer, current_masks


class CachingLayer(ScoredLayer, Protocol):
    """The part of a masked layer that the cache reads and writes."""

    cached: CachedWeight | None
    externally_refreshed: bool  # set by ``compile_``

    def mask(self) -> Tensor: ...


class TensorVersion:
    """Fingerprint of a tensor (storage and version), to detect a change without keeping the tensor alive."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: ReferenceType[Tensor] = ref(tensor)
        # While this reference lives, no other storage can get the same address.
        self.storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        # Tensors created in inference mode have no version.
        self.version = None if tensor.is_inference() else tensor._version

    def is_unchanged(self, tensor: Tensor) -> bool:
        return (
            tensor is self.tensor()
            and self.version is not None
            and tensor._version == self.version
            and tensor.untyped_storage()._cdata == self.storage.cdata
        )


class CachedWeight(NamedTuple):
    """A layer's effective weight w * m, without gradient, and the versions of the tensors it was computed from."""

    product: Tensor
    mask: Tensor | None  # stored only if the weight is trained, because its gradient is masked too
    num_kept: int | None
    sources: list[TensorVersion]

    def is_fresh(self, layer: CachingLayer) -> bool:
        sources = _sources(self.product, layer)
        return (
            self.num_kept == layer.num_kept
            and self.product.dtype == _dtype(layer.weight)
            and (self.mask is not None or not layer.weight.requires_grad)
            and len(self.sources) == len(sources)
            and all(map(TensorVersion.is_unchanged, self.sources, sources))
        )


_layers: WeakSet[CachingLayer] = WeakSet()  # the layers that have a cached weight
_lock = Lock()  # guards the set, because several threads may each train a network


def cached_weight(layer: CachingLayer) -> tuple[Tensor, Tensor | None]:
    """Return w * m of a layer, without gradient and in autocast's precision, and m if w is trained."""
    cached = layer.cached
    if torch.compiler.is_compiling() and not layer.externally_refreshed:
        # A compiled graph cannot check whether a tensor has changed.
        mask = layer.mask()
        return layer.method.effective_weight(layer.weight.detach(), mask).to(_dtype(layer.weight)), mask
    if torch.compiler.is_compiling():
        assert cached is not None, "a network compiled by compile_ needs refresh_ before each forward pass"
    elif not (cached and cached.is_fresh(layer)):
        (cached,) = _compute({layer: _dtype(layer.weight)})
    return cached.product, cached.mask


def compile_(network: nn.Module, layers: Iterable[CachingLayer]) -> None:
    """Compile a masked network in place; then call ``refresh_`` before each forward pass.

    A plain ``torch.compile(network)`` computes the masks in the graph, in every forward pass.
    """
    for layer in layers:
        layer.externally_refreshed = True
    # With dynamic shapes, a smaller last batch would switch all later batches to a slower graph for any batch size.
    # Images of several sizes may need more than the 8 graphs that torch allows by default.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    network.compile(dynamic=False)


def refresh_(layers: Iterable[CachingLayer]) -> None:
    """Compute the effective weights that are missing or outdated."""
    cacheable = (layer for layer in layers if layer.method.cacheable)
    _compute({each: _dtype(each.weight) for each in cacheable if not (each.cached and each.cached.is_fresh(each))})


def invalidate_(layers: Iterable[CachingLayer]) -> None:
    """Drop the cached weights of these layers."""
    for layer in layers:
        layer.cached = None
        with _lock:
            _layers.discard(layer)


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    with _lock:
        caches = [(layer, layer.cached) for layer in _layers]
    stale = {
        layer: cached.product.dtype
        for layer, cached in caches
        if cached and (id(layer.weight) in stepped or id(layer.scores) in stepped)
    }
    invalidate_(stale)
    with suppress(UserError):  # the next forward pass raises the same error
        _compute(stale)


register_optimizer_step_post_hook(_after_step)


def _sources(product: Tensor, layer: ScoredLayer) -> list[Tensor]:
    scores = (member.scores for member in layer.global_group or (layer,))
    return [product, layer.weight, *(each for each in scores if each is not None)]


def _compute(dtypes: Mapping[Any, torch.dtype]) -> list[CachedWeight]:
    """Cache and return the effective weights of these layers, each in the precision given."""
    wanted = dict(dtypes)
    for layer in dtypes:  # a change of one layer changes the masks of its whole global group
        wanted |= {member: _dtype(member.weight) for member in layer.global_group if member not in wanted}
    groups = defaultdict(list)
    for layer in wanted:
        groups[id(layer.method), layer.weight.device].append(layer)
    # Leave inference mode, because training may reuse what an evaluation computes.
    with torch.inference_mode(False), torch.no_grad():
        for layers in groups.values():
            for layer, mask in zip(layers, current_masks(layers), strict=True):
                weight = layer.weight
                # Write to new memory, because a graph may still need the old product. A product with a bool mask, not
                # viewed as bytes, takes a CPU twice as long.
                out = torch.empty_like(weight, dtype=wanted[layer])
                product = layer.method.effective_weight(weight, mask.view(torch.uint8), out=out)
                sources = [TensorVersion(tensor) for tensor in _sources(product, layer)]
                layer.cached = CachedWeight(product, mask if weight.requires_grad else None, layer.num_kept, sources)
                with _lock:
                    _layers.add(layer)
    return [layer.cached for layer in dtypes]


def _dtype(weight: Tensor) -> torch.dtype:
    kind, dtype = weight.device.type, weight.dtype
    if dtype == torch.float32 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return dtype
