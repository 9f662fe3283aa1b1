"""The class that a module gets while its weights are masked: reading a weight gives the effective weight.

The Parameter stays where it was, in ``module._parameters``, so state dicts, optimizers and DistributedDataParallel see
what they saw before. The module's own forward, whatever it computes, reads ``self.weight`` and gets weight * mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from lightning_subnets.errors import UserError
from lightning_subnets.masking import cached_weight
from lightning_subnets.masking.masked_weight import MaskedWeight, MaskState, scores_key, states_of
from lightning_subnets.masking.straight_through import InTransform, StraightThrough

_WHOLE = (
    "fully_shard gives each process a part of a weight, and masks are chosen from whole weights: use "
    "nn.parallel.DistributedDataParallel"
)


@cache
def masked_class(base: type[nn.Module], keys: tuple[str, ...]) -> type[nn.Module]:
    """Return a subclass of ``base`` whose attributes ``keys`` are effective weights."""
    attributes: dict[str, Any] = {key: _effective_attribute(key) for key in keys}
    attributes |= {
        "__doc__": base.__doc__,
        # torch.fx and torch.export recognise a layer of torch by the name of its module.
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__init_subclass__": classmethod(_refuse_subclass),
        "__reduce_ex__": _reduce,
        "_get_name": lambda _: f"Masked{base.__name__}",
        "extra_repr": _extra_repr,
        "_apply": _apply,
        "_load_from_state_dict": _load_from_state_dict,
        "_replicate_for_data_parallel": _replicate,
        "__delattr__": lambda module, name: _delete(base, module, name),
    }
    # Errors name the class of a module: that of the base, which the user wrote. Only its repr is "MaskedLinear(...)".
    return type(base.__name__, (base,), attributes)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module has without masks."""
    kind = type(module)
    return kind.__mro__[1] if states_of(module) else kind


def _effective_attribute(key: str) -> property:
    def get(module: nn.Module) -> Tensor:
        if key not in module._parameters:
            raise UserError(
                f"{key!r} of a {type(module).__name__} was masked and is no longer a parameter: call unmask_(network) "
                "before a parametrization is registered or the parameter is deleted"
            )
        if type(module._parameters[key]).__name__ == "DTensor":  # by name, because torch may lack torch.distributed
            raise UserError(_WHOLE)
        if is_fx_symbolic_tracing() and get_proxy_mode() is None:  # make_fx traces what the tensors do
            raise UserError(
                f"torch.fx would record the {key} of a {type(module).__name__} with its present mask, and compute with "
                "that for ever: call mask_ on the traced network, or unmask_(network) before tracing"
            )
        try:
            return effective_weight(MaskedWeight(module, key))
        except AttributeError as error:  # nn.Module.__getattr__ would answer it with the weight without its mask
            raise RuntimeError(f"the effective weight cannot be computed: {error}") from error

    def refuse(module: nn.Module, value: object) -> None:
        """Refuse another value, which torch sets only where no parameter is any more."""
        raise UserError(
            f"{key!r} of a masked {type(module).__name__} cannot be replaced, as torch.nn.utils.weight_norm does, "
            "which has removed the parameter: build the network again, and call unmask_ before weight_norm"
        )

    return property(get, refuse, doc="The effective weight, weight * mask; ``raw_weight`` returns the Parameter.")


def _refuse_subclass(masked: type[nn.Module]) -> None:
    """Refuse another class above the masked one, which the functions of this file would not see."""
    raise UserError(
        f"a layer cannot become a {masked.__name__} while it is masked: call unmask_(network) before. ({_WHOLE})"
    )


def _delete(base: type[nn.Module], module: nn.Module, name: str) -> None:
    """Refuse to delete a parameter, as torch does to register a parametrization, before the module is damaged."""
    if name in module._parameters:
        if name in states_of(module):  # torch has read the effective weight, and written it onto itself
            cached_weight.drop_([MaskedWeight(module, name)], with_edits=True)
        raise UserError(
            f"{name!r} belongs to a masked {type(module).__name__}: call unmask_(network) before a parametrization is "
            "registered or the parameter is deleted"
        )
    base.__delattr__(module, name)


def _reduce(module: nn.Module, protocol: Any) -> Any:
    base, keys = type(module).__mro__[1], tuple(states_of(module))
    cached_weight.check_unedited(MaskedWeight(module, key) for key in keys)  # a copy has no cached weights
    return (_new, (base, keys), *base.__reduce_ex__(module, protocol)[2:])  # type: ignore[call-arg, arg-type]


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
    """Move a module to another device or dtype, and free the cached weights on the old one.

    Scores and their gradients stay at least float32, as ``install_`` makes them, with the values that they had.
    """
    weights = [MaskedWeight(module, key) for key in states_of(module)]
    cached_weight.drop_(weights)
    scores = [each.scores for each in weights if each.scores is not None]
    precise = [*scores, *(each.grad for each in scores if each.grad is not None)]

    def apply(tensor: Tensor) -> Tensor:
        result = fn(tensor)
        dtype = _at_least_float32(result.dtype)
        if dtype == result.dtype or not any(tensor is each for each in precise):
            return result
        return torch.empty_like(result, dtype=dtype).copy_(tensor)

    return plain_class(module)._apply(module, apply, *args, **kwargs)  # type: ignore[no-untyped-call, no-any-return]


def _load_from_state_dict(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
    """Refuse scores of a method of another kind, and frozen edges of another seed, which no state dict holds.

    A score that is copied into a mask would be True unless it is 0.
    """
    for name, scores in ((scores_key(key), MaskedWeight(module, key).scores) for key in states_of(module)):
        given = state_dict.get(prefix + name)
        if not isinstance(given, Tensor) or scores is None or given.is_floating_point() == scores.is_floating_point():
            continue  # torch reports a missing or foreign value
        if scores.is_floating_point() or not bool(((given == 0) | (given == 1)).all()):  # a mask may have been cast
            raise UserError(
                f"{prefix}{name} is {given.dtype} in the state dict and {scores.dtype} in this network, which has "
                "another method: load it into a network that is masked as the one that it comes from"
            )
    for key, state in states_of(module).items():
        weight, ours = state_dict.get(prefix + key), module._parameters[key]
        if not (state.frozen_edges and state.origin and prefix + scores_key(key) in state_dict and ours is not None):
            continue
        if isinstance(weight, Tensor) and weight.shape == ours.shape and not _nearly_equal(weight, ours):
            raise UserError(
                f"{prefix}{key} of the state dict is not the weight of this network, so the frozen edges, which follow "
                "from the seed and are in no state dict, may be others too: mask this network with the same seed and "
                "weights as the one that it comes from"
            )
    plain_class(module)._load_from_state_dict(module, state_dict, prefix, *args)


def _nearly_equal(weight: Tensor, ours: Tensor) -> bool:
    if weight.is_meta or ours.is_meta or type(weight) is FakeTensor or detect_fake_mode() is not None:
        return True  # there are no numbers to compare
    return torch.allclose(weight.to(ours), ours, rtol=1e-2, atol=1e-6)  # the state dict may have been cast


def _replicate(module: nn.Module) -> nn.Module:
    raise UserError(
        "nn.DataParallel gives its copies of a network tensors in place of parameters, so their masks would be lost: "
        "use nn.parallel.DistributedDataParallel, with a process for each GPU"
    )


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of scores: a coarser one would round small steps away and make scores equal."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


def _new(base: type[nn.Module], keys: tuple[str, ...]) -> nn.Module:
    kind = masked_class(base, keys)  # type: ignore[arg-type]
    return kind.__new__(kind)


def _extra_repr(module: nn.Module) -> str:
    parts = [plain_class(module).extra_repr(module)]
    for key in states_of(module):
        parts.append(f"{'' if key == 'weight' else f'{key}: '}{MaskedWeight(module, key).shown_density()}")
    return ", ".join(filter(None, parts))


def effective_weight(weight: MaskedWeight) -> Tensor:
    """Return the effective weight, w_eff, with its gradient."""
    method = weight.method
    if not method.cacheable:
        if method.draws_masks and not torch.compiler.is_compiling():
            cached_weight.forget_draw_at_next_step_(weight)
        return method.uncached_weight(weight)
    if not torch.compiler.is_compiling() and _is_transformed():
        group = [weight if each.state is weight.state else each for each in weight.global_group] or [weight]
        tensors = (tensor for each in group for tensor in (each.weight, each.scores))
        result: Tensor = InTransform.apply(group, group.index(weight), *tensors)[0]
    else:
        product, mask = cached_weight.read(weight)
        pattern = weight.frozen_edges.on(weight.weight.device) if weight.frozen_edges else None
        result = StraightThrough.apply(product, mask, weight.weight, weight.scores, pattern, method)
    return result


def _is_transformed() -> bool:
    """Return whether ``torch.func`` is transforming the computation, whichever tensors it has wrapped."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def install_(owners: list[tuple[nn.Module, str]], state: MaskState, scores: Tensor | None) -> None:
    """Mask a parameter in all modules that own it, in place, with scores beside it."""
    module, key = owners[0]
    weight = module._parameters[key]
    assert weight is not None
    parameter = None
    if scores is not None:
        dtype = _at_least_float32(weight.dtype) if scores.is_floating_point() else scores.dtype
        trained = state.method.trainable == "scores"
        parameter = nn.Parameter(scores.to(weight.device, dtype), requires_grad=trained)
    for module, key in owners:
        base, states = plain_class(module), states_of(module)
        module.__dict__["_masked"] = states | {key: state}
        module.__class__ = masked_class(base, (*states, key))  # type: ignore[arg-type]
        module.register_parameter(scores_key(key), parameter)
