"""The weights that masked layers compute with: made anew when something has changed, and not before.

That is once after each optimizer step, for all layers together, and never for the batches that are accumulated into
a step, nor in evaluation. torch tells of an optimizer's step, for fused optimizers change a parameter without a
trace; every other change shows in the version counter of a tensor. Edits of ``parameter.data`` alone leave none: who
makes them calls ``forget_``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from lightning_subnets.errors import UserError

if TYPE_CHECKING:
    from lightning_subnets.masking import MaskedLayer


class Made(NamedTuple):
    """The weight a layer computes with, without gradient, and what it was made of."""

    product: Tensor
    num_kept: int
    sources: list[Source]

    def is_fresh(self, layer: MaskedLayer) -> bool:
        return (
            self.num_kept == layer.num_kept
            and self.product.dtype == _dtype(layer)
            and len(self.sources) == 3
            and all(map(Source.is_unchanged, self.sources, (self.product, layer.weight, layer.scores)))
        )


class Source(NamedTuple):
    """A tensor as it was."""

    tensor: Tensor | None
    version: int | None  # which a tensor created in inference mode has not
    address: int

    @classmethod
    def of(cls, tensor: Tensor | None) -> Source:
        if tensor is None:
            return cls(None, 0, 0)
        return cls(tensor, None if tensor.is_inference() else tensor._version, tensor.data_ptr())

    def is_unchanged(self, tensor: Tensor | None) -> bool:
        return tensor is self.tensor and self.version is not None and Source.of(tensor)[1:] == self[1:]


_layers: WeakSet[MaskedLayer] = WeakSet()  # all whose weights were made


def product(layer: MaskedLayer) -> Tensor:
    """The w * m of a layer, without gradient, in the precision of autocast where that is on.

    One tensor as long as precision and device stay; it is written anew, as a weight is by its optimizer.

    Raises:
        ValueError: if a score on a CPU is NaN.
    """
    if not torch.compiler.is_compiling():
        refresh_([layer])
    elif not layer.refreshed_outside:
        # A graph cannot see whether something has changed.
        return (layer.weight.detach() * layer.mask()).to(_dtype(layer))
    assert layer.made is not None
    return layer.made.product


def compile_(network: nn.Module, layers: Iterable[MaskedLayer]) -> None:
    """Compile a masked network in place by ``torch.compile``, for one who calls ``refresh_`` before each forward pass.

    Without this, ``torch.compile(network)`` chooses the masks in the graph, in every forward pass.
    """
    for layer in layers:
        layer.refreshed_outside = True
    # A smaller last batch would otherwise turn every later one over to a slower graph for batches of any size.
    network.compile(dynamic=False)


def refresh_(layers: Iterable[MaskedLayer]) -> None:
    """Make the masked weights of those layers that have none, or whose weight, scores or precision have changed.

    Raises:
        ValueError: if a score on a CPU is NaN.
    """
    stale = [layer for layer in layers if layer.made is None or not layer.made.is_fresh(layer)]
    if stale:
        _make(stale, [_dtype(layer) for layer in stale])


def forget_(layers: Iterable[MaskedLayer]) -> None:
    """Have the masked weights of these layers made anew when they are needed next; for edits that leave no trace."""
    for layer in layers:
        if layer.made is not None:
            layer.made = layer.made._replace(sources=[])


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    layers = [layer for layer in _layers if layer.made and not stepped.isdisjoint((id(layer.weight), id(layer.scores)))]
    dtypes = []
    for layer in layers:
        assert layer.made is not None
        dtypes.append(layer.made.product.dtype)
    forget_(layers)
    with suppress(UserError):  # the next forward pass will tell of it
        _make(layers, dtypes)


register_optimizer_step_post_hook(_after_step)


def _make(layers: list[MaskedLayer], dtypes: list[torch.dtype]) -> None:
    together = defaultdict(list)
    for layer, dtype in zip(layers, dtypes, strict=True):
        together[id(layer.method), layer.weight.device].append((layer, dtype))
    # Made in an evaluation, they may be used in training next, where tensors of inference mode are refused.
    with torch.inference_mode(False), torch.no_grad():
        for group in together.values():
            masks = group[0][0].method.masks([layer for layer, _ in group])
            for (layer, dtype), mask in zip(group, masks, strict=True):
                weight = layer.weight
                made = torch.empty_like(weight, dtype=dtype)
                if layer.made and _alike(layer.made.product, made):
                    made = layer.made.product
                # As bytes: a product with bool takes a CPU twice as long.
                torch.mul(weight, mask.view(torch.uint8), out=made)
                layer.made = Made(made, layer.num_kept, [Source.of(each) for each in (made, weight, layer.scores)])
                _layers.add(layer)


def _alike(first: Tensor, second: Tensor) -> bool:
    return (first.dtype, first.device, first.stride()) == (second.dtype, second.device, second.stride())


def _dtype(layer: MaskedLayer) -> torch.dtype:
    kind, dtype = layer.weight.device.type, layer.weight.dtype
    return torch.get_autocast_dtype(kind) if dtype == torch.float32 and torch.is_autocast_enabled(kind) else dtype
