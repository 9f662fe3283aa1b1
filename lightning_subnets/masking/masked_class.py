"""The class that a module gets while its weights are masked: reading a weight gives the effective weight.

The Parameter stays where it was, in ``module._parameters``, so state dicts, optimizers and DistributedDataParallel see
what they saw before. The module's own forward, whatever it computes, reads ``self.weight`` and gets weight * mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lightning_subnets.masking import cached_weight
from lightning_subnets.masking.masked_weight import MaskedWeight, MaskState, masked_weights, scores_key, states_of


@cache
def masked_class(base: type[nn.Module], keys: tuple[str, ...]) -> type[nn.Module]:
    """Return a subclass of ``base`` whose attributes ``keys`` are effective weights."""
    attributes: dict[str, Any] = {key: _effective_attribute(key) for key in keys}
    attributes |= {
        "__doc__": base.__doc__,
        # torch.fx and torch.export recognise a layer of torch by the name of its module.
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__reduce_ex__": _reduce,
        "_get_name": lambda _: f"Masked{base.__name__}",
        "extra_repr": _extra_repr,
        "_apply": _apply,
    }
    # Errors name the class of a module: that of the base, which the user wrote. Only its repr is "MaskedLinear(...)".
    return type(base.__name__, (base,), attributes)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module has without masks."""
    kind = type(module)
    return kind.__mro__[1] if states_of(module) else kind


def _effective_attribute(key: str) -> property:
    def get(module: nn.Module) -> Tensor:
        try:
            return effective_weight(MaskedWeight(module, key))
        except AttributeError as error:  # nn.Module.__getattr__ would answer it with the weight without its mask
            raise RuntimeError(f"the effective weight cannot be computed: {error}") from error

    return property(get, doc="The effective weight, weight * mask; ``raw_weight`` returns the Parameter.")


def _reduce(module: nn.Module, protocol: Any) -> Any:
    base, keys = type(module).__mro__[1], tuple(states_of(module))
    return (_new, (base, keys), *base.__reduce_ex__(module, protocol)[2:])  # type: ignore[call-arg, arg-type]


def _apply(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Move a module to another device or dtype, and free the cached weights on the old one."""
    cached_weight.invalidate_(MaskedWeight(module, key) for key in states_of(module))
    return plain_class(module)._apply(module, *args, **kwargs)  # type: ignore[no-untyped-call, no-any-return]


def _new(base: type[nn.Module], keys: tuple[str, ...]) -> nn.Module:
    kind = masked_class(base, keys)  # type: ignore[arg-type]
    return kind.__new__(kind)


def _extra_repr(module: nn.Module) -> str:
    parts = [plain_class(module).extra_repr(module)]
    for key in states_of(module):
        parts.append(f"{'' if key == 'weight' else f'{key}: '}density={MaskedWeight(module, key).density:.3g}")
    return ", ".join(filter(None, parts))


def effective_weight(weight: MaskedWeight) -> Tensor:
    """Return the effective weight, w_eff, with its gradient."""
    method = weight.method
    if not method.cacheable:
        return method.masked_weight(weight)
    product, mask = cached_weight.cached_weight(weight)
    compiling = torch.compiler.is_compiling()
    function = _InTransform if not compiling and cached_weight.is_transformed(weight) else StraightThrough
    result: Tensor = function.apply(product, mask, weight.weight, weight.scores, method)
    return result


class StraightThrough(torch.autograd.Function):
    """The effective weight, w_eff = w * m, with a gradient that passes straight through the choice of the mask.

    ``apply`` takes w_eff as ``cached_weight`` computed it; m, or None if w is not trained; w; s, or None; the method.
    ``method.weight_gradient`` and ``method.score_gradient`` give dL/dw and dL/ds from dL/dw_eff.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        product, mask, weight, scores, ctx.method = inputs
        ctx.save_for_backward(mask, weight, scores)
        result: Tensor = product.view_as(product)
        return result

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


class _InTransform(StraightThrough):
    """The same for ``torch.func``, which needs ``setup_context``; with it, every call takes three times as long."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        result: Tensor = inputs[0].view_as(inputs[0])
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, mask, weight, scores, ctx.method = inputs
        ctx.save_for_backward(mask, weight, scores)


def _with_strides_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient with the parameter's strides, if both have the same memory layout.

    In channels_last, operations choose different strides for a dimension of size 1, and DistributedDataParallel warns.
    """
    both = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
    if gradient.stride() != parameter.stride() and all(size == 1 or ours == theirs for size, ours, theirs in both):
        return gradient.as_strided(parameter.shape, parameter.stride())
    return gradient  # torch copies a gradient of another layout


def install_(owners: list[tuple[nn.Module, str]], state: MaskState, scores: Tensor | None) -> None:
    """Mask a parameter in all modules that own it, in place, with scores beside it."""
    module, key = owners[0]
    weight = module._parameters[key]
    assert weight is not None
    parameter = None
    if scores is not None:
        # Scores are at least float32, however coarse the weights: bfloat16 would round small steps away.
        dtype = torch.promote_types(weight.dtype, torch.float32) if scores.is_floating_point() else scores.dtype
        trained = state.method.trainable == "scores"
        parameter = nn.Parameter(scores.to(weight.device, dtype), requires_grad=trained)
    for module, key in owners:
        base, states = plain_class(module), states_of(module)
        module.__dict__["_masked"] = states | {key: state}
        module.__class__ = masked_class(base, (*states, key))  # type: ignore[arg-type]
        module.register_parameter(scores_key(key), parameter)


@torch.no_grad()
def remove_(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Give the modules of a masked network their plain classes, in place, with the masks folded into the weights."""
    for name, each in masked_weights(network).items():
        each.weight.copy_(each.method.effective_weight(each.weight, masks[name]))
    for module in network.modules():
        if states := states_of(module):
            module.__class__ = plain_class(module)
            del module.__dict__["_masked"]
            for key in states:
                del module._parameters[scores_key(key)]


@contextmanager
def temporarily_unmasked(network: nn.Module) -> Iterator[nn.Module]:
    """Give a masked network its plain classes and all its weights for as long as the context lasts."""
    # A copy of the plain network must not hold on to the memory of cached weights.
    cached_weight.invalidate_(masked_weights(network).values())
    modules = [(module, type(module), states_of(module)) for module in network.modules() if states_of(module)]
    scores = [(module, key, module._parameters.pop(scores_key(key))) for module, _, keys in modules for key in keys]
    try:
        for module, _, _ in modules:
            module.__class__ = plain_class(module)
            del module.__dict__["_masked"]
        yield network
    finally:
        for module, kind, states in modules:
            module.__dict__["_masked"] = states
            module.__class__ = kind
        for module, key, parameter in scores:
            module.register_parameter(scores_key(key), parameter)
