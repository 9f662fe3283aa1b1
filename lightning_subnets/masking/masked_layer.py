"""A layer that computes with ``weight * mask``, and sends the gradient straight through the choice of the mask."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lightning_subnets.masking import cached_weight
from lightning_subnets.masking.method import Method, ScoredLayer, current_masks


class StraightThrough(torch.autograd.Function):
    """The effective weight of a layer, with a gradient that passes straight through the choice of the mask.

    Forward:  w_eff = w * m, as ``cached_weight`` has computed it.
    Backward: dL/dw and dL/ds from dL/dw_eff, by ``method.weight_gradient`` and ``method.score_gradient``.

    Args (to ``apply``):
        product: w_eff, without gradient.
        mask: m, or None if the weight is not trained.
        weight: w.
        scores: s, or None.
        method: the layer's method.

    Returns: w_eff.
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
        _, _, to_weight, to_scores, _ = ctx.needs_input_grad
        return (
            None,
            None,
            _with_strides_of(weight, method.weight_gradient(gradient, mask)) if to_weight else None,
            _with_strides_of(scores, method.score_gradient(gradient, weight, scores)) if to_scores else None,
            None,
        )


def _with_strides_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient with the parameter's strides, if both have the same memory layout.

    A dimension of size 1 may have any stride. In channels_last, elementwise operations and convolutions choose
    different ones, which DistributedDataParallel takes for different layouts and warns about.
    """
    both = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
    if gradient.stride() != parameter.stride() and all(size == 1 or ours == theirs for size, ours, theirs in both):
        return gradient.as_strided(parameter.shape, parameter.stride())
    return gradient  # torch copies a gradient of another layout


class Origin(NamedTuple):
    """The draw that a layer's weights come from, see ``initialization.draw_weights``."""

    distribution: str
    seed: int
    layer: str


class MaskedLayer(nn.Module):
    """A layer that computes with ``masked_weight()``, and what it holds beside its plain parameters."""

    plain: ClassVar[type[nn.Module]]
    weight: Tensor
    scores: nn.Parameter | None
    method: Method
    num_kept: int | None  # None if the method does not fix it beforehand
    origin: Origin | None  # None if the weights came with the network
    global_group: tuple[ScoredLayer, ...] = ()  # all layers of the network, if its mask depends on their scores too
    cached: cached_weight.CachedWeight | None = None
    externally_refreshed: bool = False

    def masked_weight(self) -> Tensor:
        """Return the weight that the layer computes with, w_eff, with its gradient."""
        if not self.method.cacheable:
            return self.method.masked_weight(self)
        product, mask = cached_weight.cached_weight(self)
        weight: Tensor = StraightThrough.apply(product, mask, self.weight, self.scores, self.method)
        return weight

    def mask(self) -> Tensor:
        """Return the current mask, boolean, shaped like ``weight``."""
        return current_masks([self])[0]

    def _apply(self, *args: Any, **kwargs: Any) -> MaskedLayer:
        """Drop the cached weight, which is on the old device and in the old precision."""
        cached_weight.invalidate_([self])
        return super()._apply(*args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cached weight out of a copy, which computes its own."""
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


MASKED: dict[type[nn.Module], type[MaskedLayer]] = {layer.plain: layer for layer in (MaskedConv2d, MaskedLinear)}
