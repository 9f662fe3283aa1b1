"""The cache of effective weights, w * m: recomputed only when weight, scores or method have changed.

The cache recomputes all weights together after each optimizer step. Accumulated batches and evaluation reuse them.
Changes show in a tensor's version counter. Fused optimizers do not advance the counter, so a hook on
``Optimizer.step`` reports their steps. Changes that leave no trace need ``invalidate_``, see ``mask_``.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from lightning_subnets.errors import UserError
from lightning_subnets.masking.masked_weight import CachedWeight, MaskedWeight, states_of
from lightning_subnets.masking.method import Method, current_multipliers, is_plain
from lightning_subnets.masking.tensor_version import TensorVersion

_modules: WeakSet[nn.Module] = WeakSet()  # the modules that have a cached weight, or a drawn mask
_lock = Lock()  # guards the set, because several threads may each train a network


def read(weight: MaskedWeight) -> tuple[Tensor, Tensor | None]:
    """Return w * m without gradient, and m if w is trained.

    Raises:
        ValueError: if the effective weight was edited in place, because the edit would be lost.
    """
    state = weight.state
    compiling = torch.compiler.is_compiling()
    if compiling and not state.externally_refreshed:
        # A compiled graph cannot check whether a tensor has changed.
        mask = weight.multiplier()
        return state.method.effective_weight(weight.weight.detach(), mask), mask
    if not compiling:
        check_unedited([weight])
        if not _is_fresh(weight):
            _compute([weight])
    cached = state.cached
    assert cached is not None, "a network compiled by compile_ needs refresh_ before each forward pass"
    return cached.product, cached.mask


def compile_(network: nn.Module, weights: Iterable[MaskedWeight]) -> None:
    """Compile a masked network in place; then call ``refresh_`` before each forward pass.

    A plain ``torch.compile(network)`` computes the masks in the graph, in every forward pass.
    """
    for weight in weights:
        weight.state.externally_refreshed = True
    # With dynamic shapes, a smaller last batch would switch all later batches to a slower graph for any batch size.
    # Images of several sizes may need more than the 8 graphs that torch allows by default.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    network.compile(dynamic=False)


def refresh_(weights: Iterable[MaskedWeight]) -> None:
    """Compute the effective weights that are missing or outdated."""
    _compute([each for each in weights if each.method.cacheable and not _is_fresh(each)])


def check_unedited(weights: Iterable[MaskedWeight]) -> None:
    """Check that no cached effective weight was edited in place, before it is used, computed again or dropped.

    Raises:
        ValueError: if one was, because the edit would be lost.
    """
    for weight in weights:
        cached = weight.state.cached
        if cached and cached.product._version != cached.version:
            raise UserError(
                f"the {weight.key} of a {type(weight.module).__name__} was edited in place, but it is the product of "
                f"weight and mask, so the edit would be lost: call invalidate_(network), and edit "
                f"ls.raw_weight(module, {weight.key!r})"
            )


def forget_draw_at_next_step_(weight: MaskedWeight) -> None:
    """Make an optimizer step that changes this weight or its scores forget the mask that was drawn."""
    with _lock:
        _modules.add(weight.module)


def drop_(weights: Collection[MaskedWeight], *, with_edits: bool = False) -> None:
    """Drop the cached effective weights, after ``check_unedited`` unless their edits shall be lost too."""
    if not with_edits:
        check_unedited(weights)
    for weight in weights:
        weight.state.cached = None


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    with _lock:
        modules = list(_modules)
    known = [MaskedWeight(each, key) for each in modules for key in states_of(each) if key in each._parameters]
    changed = [each for each in known if id(each.weight) in stepped or id(each.scores) in stepped]
    for each in changed:
        each.drawn = None
    stale = [each for each in changed if each.state.cached]
    drop_(stale)
    with suppress(UserError):  # the next forward pass raises the same error
        _compute(stale)


register_optimizer_step_post_hook(_after_step)


def _is_fresh(weight: MaskedWeight) -> bool:
    cached, sources = weight.state.cached, _sources(weight)
    return (
        cached is not None
        and cached.num_kept == weight.num_kept
        and (cached.mask is not None or not weight.weight.requires_grad)
        and all(map(TensorVersion.is_unchanged, cached.sources, sources))
        and _has_attributes(weight.method, cached.attributes)
    )


def _attributes(method: Method) -> dict[str, Any]:
    """Return the attributes of a method; copies of plain values, because a list can be changed in place."""
    return {key: copy.deepcopy(value) if is_plain(value) else value for key, value in vars(method).items()}


def _has_attributes(method: Method, before: dict[str, Any]) -> bool:
    now = vars(method)
    # The copy of a number or a string is the same object. Values that are not plain, such as tensors, may not compare.
    return now.keys() == before.keys() and all(
        now[key] is value or (is_plain((now[key], value)) and now[key] == value) for key, value in before.items()
    )


def _sources(weight: MaskedWeight) -> list[Tensor]:
    scores = (member.scores for member in weight.global_group or (weight,))
    return [weight.weight, *(each for each in scores if each is not None)]


def _compute(weights: Sequence[MaskedWeight]) -> None:
    """Cache these effective weights."""
    # A change of one weight changes the masks of its whole global group. The weight comes last, because it replaces the
    # product of another layer that shared it.
    wanted = list(dict.fromkeys(member for weight in weights for member in (*weight.global_group, weight)))
    check_unedited(wanted)
    # Leave inference mode, because training may reuse what an evaluation computes.
    with torch.inference_mode(False), torch.no_grad():
        # Once for each tensor, because all weights of a global group depend on the scores of all.
        sources = [_sources(each) for each in wanted]
        distinct = {id(tensor): tensor for tensors in sources for tensor in tensors}
        versions = {key: TensorVersion(tensor) for key, tensor in distinct.items()}
        methods = {id(each.method): each.method for each in wanted}
        attributes = {key: _attributes(method) for key, method in methods.items()}
        for each, tensors, mask in zip(wanted, sources, current_multipliers(wanted), strict=True):
            # Write to new memory, because a graph may still need the old product. A product with a bool mask, not
            # viewed as bytes, takes a CPU twice as long.
            out = torch.empty_like(each.weight)
            factor = mask.view(torch.uint8) if mask.dtype == torch.bool else mask
            product = each.method.effective_weight(each.weight, factor, out=out)
            before = [versions[id(tensor)] for tensor in tensors]
            kept = mask if each.weight.requires_grad else None
            known = attributes[id(each.method)]
            each.state.cached = CachedWeight(product, kept, each.num_kept, product._version, before, known)
            with _lock:
                _modules.add(each.module)
