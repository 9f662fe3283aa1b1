"""The identity of a run: the arguments that its checkpoints must agree on, as plain values."""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_subnets import methods
from lightning_subnets.errors import UserError
from lightning_subnets.masking.choice import Choice
from lightning_subnets.masking.method import Method, check_identity

# The keys of an identity that are not arguments of the method.
OF_THE_RUN = {"network", "method", "weights", "seed", *Choice._fields}


def of_run(network: nn.Module, method: Method, *, weights: str | None, seed: int, choice: Choice) -> dict[str, Any]:
    """Return the identity of a run with these arguments.

    Raises:
        ValueError: if an argument of the method has the name of another argument of the run.
    """
    if taken := OF_THE_RUN & method.identity().keys():
        raise UserError(
            f"{type(method).__name__}.identity() has {min(taken)}, which checkpoints have for the run: rename it; the "
            f"names of the run are {', '.join(sorted(OF_THE_RUN))}"
        )
    names = {"network": type(network).__name__, "method": type(method).__name__}
    arguments = copy.deepcopy(method.identity())  # because training may change a list in place
    return {**names, **arguments, "weights": weights, "seed": seed, **choice.identity()}


def state_of(method: Method, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a user's method that training has changed since its identity was taken.

    Raises:
        ValueError: if one of them has become a value that a checkpoint cannot hold.
    """
    if not _has_state(method):
        return {}
    now = {key: value for key, value in method.identity().items() if key in identity}
    check_identity(type(method).__name__, now)
    return {key: value for key, value in now.items() if value != identity[key]}


def restore_(method: Method, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Give a method the arguments of a checkpoint: those in its state, and the first values of all others.

    Raises:
        ValueError: if the state is not one of such a method.
    """
    first = {key: value for key, value in identity.items() if key not in OF_THE_RUN and _has_state(method)}
    for key, value in state.items():
        if key not in first or not _may_follow(value, first[key]):
            raise UserError(
                f"the checkpoint is damaged: {type(method).__name__} cannot have {key!r:.60} = {value!r:.60}"
            )
    for key, value in {**first, **state}.items():
        setattr(method, key, copy.deepcopy(value))


def check(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Check that a checkpoint has the identity of this run.

    Raises:
        ValueError: naming the first argument that differs.
    """
    for key in dict.fromkeys((*ours, *theirs)):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"the checkpoint has {key} = {reprlib.repr(theirs.get(key)):.200} and this run has {key} = "
                f"{ours.get(key)!r}: run it with the config.yaml beside its checkpoints"
            )


def _has_state(method: Method) -> bool:
    # The package's own methods change none of their arguments, and another identity may not be the attributes.
    return type(method).identity is Method.identity and not type(method).__module__.startswith(f"{methods.__name__}.")


def _may_follow(value: object, first: object) -> bool:
    return first is None or type(value) is type(first) or {type(value), type(first)} == {int, float}
