"""The cache of effective weights, w * m: computed when weight or scores have changed, and not before.

That is once after each optimizer step, for all layers together. Accumulated batches and evaluation reuse the result.
Fused optimizers change a parameter without a trace, so a hook on ``Optimizer.step`` tells of a step. Every other
change shows in a tensor's version counter, except an in-place edit of ``parameter.data`` and a collective of
torch.distributed on a parameter: after these, call ``invalidate_``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
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
    """What the cache reads and writes of a masked layer."""

    cached: CachedWeight | None
    externally_refreshed: bool  # whether the caller of a compiled network calls ``refresh_`` before each forward pass

    def mask(self) -> Tensor: ...


class TensorVersion:
    """Fingerprint of a tensor (storage and version), to detect a change without keeping the tensor alive."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: ReferenceType[Tensor] = ref(tensor)
        # While this reference lives, no other storage gets the same address.
        self.storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        # Tensors that inference mode creates have no version.
        self.version = None if tensor.is_inference() else tensor._version

    def is_unchanged(self, tensor: Tensor) -> bool:
        return (
            tensor is self.tensor()
            and self.version is not None
            and tensor._version == self.version
            and tensor.untyped_storage()._cdata == self.storage.cdata
        )


class CachedWeight(NamedTuple):
    """A layer's effective weight w * m, without gradient, and the versions of what it was computed from."""

    product: Tensor
    mask: Tensor | None  # kept if the weight is trained, because its gradient is masked too
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


_layers: WeakSet[CachingLayer] = WeakSet()  # all layers that have a cached weight
_lock = Lock()  # guards the set, because networks may be trained in several threads


def cached_weight(layer: CachingLayer) -> tuple[Tensor, Tensor | None]:
    """Return w * m of a layer, without gradient, and m if w is trained.

    Under autocast, the result has autocast's precision.

    Raises:
        ValueError: if a score on a CPU is NaN.
    """
    cached = layer.cached
    if not torch.compiler.is_compiling():
        return (cached if cached and cached.is_fresh(layer) else _compute([layer], [_dtype(layer.weight)])[0])[:2]
    if layer.externally_refreshed:
        assert cached is not None, "a network compiled by compile_ needs refresh_ before each forward pass"
        return cached[:2]
    # A graph cannot check whether something has changed.
    mask = layer.mask()
    return layer.method.effective_weight(layer.weight.detach(), mask).to(_dtype(layer.weight)), mask


def compile_(network: nn.Module, layers: Iterable[CachingLayer]) -> None:
    """Compile a masked network in place with ``torch.compile``, for a caller of ``refresh_`` before each forward pass.

    A plain ``torch.compile(network)`` computes the masks in the graph, in every forward pass.
    """
    for layer in layers:
        layer.externally_refreshed = True
    # A smaller last batch would otherwise switch all later batches to a slower graph for any batch size. With images
    # of several sizes, in training and evaluation, there may be more than the 8 graphs that torch allows by default.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    network.compile(dynamic=False)


def refresh_(layers: Iterable[CachingLayer]) -> None:
    """Compute the effective weights that are missing or outdated.

    Raises:
        ValueError: if a score on a CPU is NaN.
    """
    stale = [
        layer for layer in layers if layer.method.cacheable and not (layer.cached and layer.cached.is_fresh(layer))
    ]
    _compute(stale, [_dtype(layer.weight) for layer in stale])


def invalidate_(layers: Iterable[CachingLayer]) -> None:
    """Drop the cached weights of these layers, after an edit that leaves no trace."""
    for layer in layers:
        layer.cached = None
        with _lock:
            _layers.discard(layer)


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    with _lock:
        used = [(layer, layer.cached) for layer in _layers]
    stale = [(layer, cached.product.dtype) for layer, cached in used if cached and _has_parameter(layer, stepped)]
    invalidate_(layer for layer, _ in stale)
    with suppress(UserError):  # the next forward pass raises the same error
        _compute([layer for layer, _ in stale], [dtype for _, dtype in stale])


register_optimizer_step_post_hook(_after_step)


def _sources(product: Tensor, layer: ScoredLayer) -> list[Tensor]:
    scores = (member.scores for member in layer.global_group or (layer,))
    return [product, layer.weight, *(each for each in scores if each is not None)]


def _has_parameter(layer: ScoredLayer, parameters: set[int]) -> bool:
    return id(layer.weight) in parameters or id(layer.scores) in parameters


def _compute(layers: list[CachingLayer], dtypes: list[torch.dtype]) -> list[CachedWeight]:
    wanted: dict[Any, torch.dtype] = dict(zip(layers, dtypes, strict=True))
    for layer in layers:  # a change of one layer changes the masks of its whole global group
        wanted |= {member: _dtype(member.weight) for member in layer.global_group if member not in wanted}
    together = defaultdict(list)
    for layer, dtype in wanted.items():
        together[id(layer.method), layer.weight.device].append((layer, dtype))
    # Training may use what an evaluation computed, and refuses tensors of inference mode.
    with torch.inference_mode(False), torch.no_grad():
        for group in together.values():
            for (layer, dtype), mask in zip(group, current_masks([layer for layer, _ in group]), strict=True):
                weight = layer.weight
                # In new memory, because a graph may still need the old product. A view as bytes, because a product
                # with bool takes a CPU twice as long.
                out = torch.empty_like(weight, dtype=dtype)
                product = layer.method.effective_weight(weight, mask.view(torch.uint8), out=out)
                sources = [TensorVersion(tensor) for tensor in _sources(product, layer)]
                layer.cached = CachedWeight(product, mask if weight.requires_grad else None, layer.num_kept, sources)
                with _lock:
                    _layers.add(layer)
    return [layer.cached for layer in layers if layer.cached]


def _dtype(weight: Tensor) -> torch.dtype:
    kind, dtype = weight.device.type, weight.dtype
    if dtype == torch.float32 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return dtype
