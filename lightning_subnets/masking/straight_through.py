"""The gradient of a masked weight: straight through the choice of the mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_subnets.masking.method import Method


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

    A dimension of size 1 may have any stride. In channels_last, elementwise operations and convolutions choose
    different strides for it, and DistributedDataParallel warns about the difference.
    """
    both = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
    if gradient.stride() != parameter.stride() and all(size == 1 or ours == theirs for size, ours, theirs in both):
        return gradient.as_strided(parameter.shape, parameter.stride())
    return gradient  # torch copies a gradient of another layout
