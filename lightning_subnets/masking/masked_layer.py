"""A layer that computes with ``weight * mask`` in place of its weight, and the masks of a network's layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import cached_weight
from lightning_subnets.masking.method import Method, ScoredLayer, current_masks


class Origin(NamedTuple):
    """The draw that a layer's weights come from, see ``initialization.draw_weights``."""

    distribution: str
    seed: int
    layer: str


class MaskedLayer(nn.Module):
    """A layer that computes with ``masked_weight()`` in place of its weight."""

    plain: ClassVar[type[nn.Module]]
    weight: Tensor
    scores: nn.Parameter | None
    method: Method
    num_kept: int | None  # None if the method does not fix the number in advance
    origin: Origin | None  # None if the network came with its weights
    global_group: tuple[ScoredLayer, ...] = ()  # all layers of the network, if the mask depends on their scores too
    cached: cached_weight.CachedWeight | None = None
    externally_refreshed: bool = False

    def masked_weight(self) -> Tensor:
        """Return the effective weight, w_eff, with its gradient."""
        if not self.method.cacheable:
            return self.method.masked_weight(self)
        product, mask = cached_weight.cached_weight(self)
        weight: Tensor = StraightThrough.apply(product, mask, self.weight, self.scores, self.method)
        return weight

    def mask(self) -> Tensor:
        """Return the current mask, boolean, shaped like ``weight``."""
        return current_masks([self])[0]

    def _apply(self, *args: Any, **kwargs: Any) -> MaskedLayer:
        cached_weight.invalidate_([self])  # the cached weight has the old device and precision
        return super()._apply(*args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "cached": None, "externally_refreshed": False}  # type: ignore[no-untyped-call]


class MaskedConv2d(MaskedLayer, nn.Conv2d):
    """A convolution with a masked weight. Source: Ramanujan et al. 2020, Eq. 23."""

    plain = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self._conv_forward(input, self.masked_weight(), self.bias)
        return output


class MaskedLinear(MaskedLayer, nn.Linear):
    """A fully connected layer with a masked weight. Source: Ramanujan et al. 2020, Eq. 4."""

    plain = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.masked_weight(), self.bias)


_MASKED: dict[type[nn.Module], type[MaskedLayer]] = {layer.plain: layer for layer in (MaskedConv2d, MaskedLinear)}


class StraightThrough(torch.autograd.Function):
    """The effective weight, w_eff = w * m, with a gradient that passes straight through the choice of the mask.

    ``apply`` takes w_eff as ``cached_weight`` computed it; m, or None if w is not trained; w; s, or None; the method.
    ``method.weight_gradient`` and ``method.score_gradient`` give dL/dw and dL/ds from dL/dw_eff.
    """

    @staticmethod
    def forward(
        ctx: Any, product: Tensor, mask: Tensor | None, weight: Tensor, scores: Tensor | None, method: Method
    ) -> Tensor:
        ctx.method = method
        ctx.save_for_backward(mask, weight, scores)
        return product.view_as(product)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor | None, Tensor | None, None]:
        (gradient,), method = gradients, ctx.method
        mask, weight, scores = ctx.saved_tensors
        _, _, trains_weight, trains_scores, _ = ctx.needs_input_grad
        return (
            None,
            None,
            _with_strides_of(weight, method.weight_gradient(gradient, mask)) if trains_weight else None,
            _with_strides_of(scores, method.score_gradient(gradient, weight, scores)) if trains_scores else None,
            None,
        )


def _with_strides_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient with the parameter's strides, if both have the same memory layout.

    In channels_last, operations choose different strides for a dimension of size 1, and DistributedDataParallel warns.
    """
    both = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
    if gradient.stride() != parameter.stride() and all(size == 1 or ours == theirs for size, ours, theirs in both):
        return gradient.as_strided(parameter.shape, parameter.stride())
    return gradient  # torch copies a gradient of another layout


def install_(layer: nn.Module, method: Method, scores: Tensor | None, origin: Origin | None) -> None:
    """Turn a Conv2d or Linear into its masked class, in place, with scores beside its weight."""
    layer.__class__ = _MASKED[type(layer)]
    assert isinstance(layer, MaskedLayer)
    layer.method, layer.num_kept, layer.origin = method, method.num_kept(layer.weight.numel()), origin
    if scores is None:
        layer.register_parameter("scores", None)
        return
    # Scores are at least float32, however coarse the weights: bfloat16 would round small steps away.
    dtype = torch.promote_types(layer.weight.dtype, torch.float32) if scores.is_floating_point() else scores.dtype
    scores = scores.to(layer.weight.device, dtype)
    layer.register_parameter("scores", nn.Parameter(scores, requires_grad=method.trainable == "scores"))


@torch.no_grad()
def remove_(layer: MaskedLayer, mask: Tensor) -> None:
    """Turn a masked layer into its plain class, in place, with the mask folded into its weight."""
    layer.weight.copy_(layer.method.effective_weight(layer.weight, mask))
    cached_weight.invalidate_([layer])
    del layer.scores, layer.method, layer.num_kept, layer.origin
    for key in ("cached", "global_group", "externally_refreshed"):
        layer.__dict__.pop(key, None)
    layer.__class__ = layer.plain  # type: ignore[assignment]


def masked_layers(network: nn.Module) -> list[tuple[str, MaskedLayer]]:
    """Return the masked layers with their names, in the network's order; a network that is not masked is an error."""
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, MaskedLayer)]
    if not layers:
        raise UserError(f"{type(network).__name__} is not masked: call mask_(network, method, ...) first")
    return layers


def masks(network: nn.Module) -> dict[str, Tensor]:
    """Return the current mask of each masked layer by its name: boolean, shaped like the layer's ``weight``."""
    layers = dict(masked_layers(network))
    return dict(zip(layers, current_masks(list(layers.values())), strict=True))


@contextmanager
def temporarily_unmasked(network: nn.Module) -> Iterator[nn.Module]:
    """Give a masked network its plain classes and all its weights for as long as the context lasts."""
    layers = [(layer, type(layer), layer._parameters.pop("scores")) for _, layer in masked_layers(network)]
    # A copy of the plain network must not hold on to the memory of cached weights.
    cached_weight.invalidate_(layer for layer, _, _ in layers)
    try:
        for layer, kind, _ in layers:
            layer.__class__ = kind.plain  # type: ignore[assignment]
        yield network
    finally:
        for layer, kind, scores in layers:
            layer.__class__ = kind
            layer.register_parameter("scores", scores)
