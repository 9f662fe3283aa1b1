"""The gradient of an effective weight, which passes straight through the choice of its mask."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking.masked_weight import MaskedWeight


class StraightThrough(torch.autograd.Function):
    """The effective weight, w_eff = w * m, with a gradient that passes straight through the choice of the mask.

    ``apply`` takes w_eff and m as ``cached_weight.read`` returns them, m is None if w is not trained; w; s, or None;
    the pattern of frozen edges, or None; the method. ``method.weight_gradient`` and ``method.score_gradient`` give
    dL/dw and dL/ds from dL/dw_eff; dL/ds of frozen edges is 0, because no score decides about them.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        product, mask, weight, scores, pattern, ctx.method = inputs
        ctx.save_for_backward(mask, weight, scores, pattern)
        result: Tensor = product.view_as(product)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *_gradients(ctx, gradients[0], 2), None, None)


class InTransform(torch.autograd.Function):
    """The same for the transforms of ``torch.func``, which give ``forward`` the tensors that they have wrapped.

    It computes w_eff and m at each read, because the wrapped tensors live for one call. ``torch.func`` needs
    ``setup_context``, with which every call takes three times as long.
    """

    @staticmethod
    def forward(group: Sequence[MaskedWeight], index: int, *tensors: Any) -> tuple[Tensor, Tensor]:
        method, pairs = group[index].method, zip(group, tensors[::2], tensors[1::2], strict=True)
        found: list[Any] = [
            SimpleNamespace(weight=w, scores=s, num_kept=each.num_kept, frozen_edges=each.frozen_edges)
            for each, w, s in pairs
        ]
        mask = method.masks(found)[index]
        return method.effective_weight(tensors[2 * index].detach(), mask), mask

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        group, index, *tensors = inputs
        ctx.method, ctx.first = group[index].method, 2 + 2 * index
        ctx.mark_non_differentiable(output[1])
        pattern = group[index].frozen_edges.on(tensors[2 * index].device) if group[index].frozen_edges else None
        ctx.save_for_backward(output[1], *tensors[2 * index : 2 * index + 2], pattern)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, tuple[None, None]]:
        if any(dim is not None for dim in in_dims[2:]):
            raise UserError(
                "torch.func.vmap over weights or scores of a masked network would need a mask for each: map over the "
                "inputs, and compute with one set of scores after another"
            )
        return InTransform.apply(*inputs), (None, None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        others = len(ctx.needs_input_grad) - ctx.first - 2
        return (*[None] * ctx.first, *_gradients(ctx, gradients[0], ctx.first), *[None] * others)


def _gradients(ctx: Any, gradient: Tensor, first: int) -> tuple[Tensor | None, Tensor | None]:
    """Return dL/dw and dL/ds, or None for those that are not trained; w is the input number ``first``."""
    mask, weight, scores, pattern = ctx.saved_tensors
    trains_weight, trains_scores = ctx.needs_input_grad[first : first + 2]
    of_weight = of_scores = None
    if trains_weight:
        of_weight = _with_strides_of(weight, ctx.method.weight_gradient(gradient, mask))
    if trains_scores:
        of_scores = ctx.method.score_gradient(gradient, weight, scores)
        if pattern is not None:
            of_scores = of_scores.clone().masked_fill_(pattern != 0, 0)  # masked_fill would change the strides
        of_scores = _with_strides_of(scores, of_scores)
    return of_weight, of_scores


def _with_strides_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient with the parameter's strides, if both have the same memory layout.

    In channels_last, operations choose different strides for a dimension of size 1, and DistributedDataParallel warns.
    """
    both = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
    if gradient.stride() != parameter.stride() and all(size == 1 or ours == theirs for size, ours, theirs in both):
        return gradient.as_strided(parameter.shape, parameter.stride())
    return gradient  # torch copies a gradient of another layout
