"""The identity of a run: the arguments that its checkpoints must agree on, as plain values."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking.choice import Choice
from lightning_subnets.masking.method import Method, check_identity
from lightning_subnets.training.masked_module import MaskedModule

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
    return {**names, **method.identity(), "weights": weights, "seed": seed, **choice.identity()}


def changed_by_training(module: MaskedModule) -> dict[str, Any]:
    """Return the arguments of a module's method that are no longer those of its identity.

    Raises:
        ValueError: if one of them has become a value that a checkpoint cannot hold.
    """
    now = {key: value for key, value in module.method.identity().items() if key in module.identity}
    check_identity(type(module.method).__name__, now)
    return {key: value for key, value in now.items() if value != module.identity[key]}


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
