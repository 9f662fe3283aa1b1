"""Masks from a run's checkpoint or ``.subnet`` file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from lightning_subnets import masking, methods, subnet_file
from lightning_subnets.errors import UserError
from lightning_subnets.masking.choice import Choice
from lightning_subnets.masking.masked_weight import check_shapes, scores_names
from lightning_subnets.masking.method import Method
from lightning_subnets.training import checkpoint
from lightning_subnets.training.identity import OF_THE_RUN
from lightning_subnets.training.schema import first_mistake


def read_masks(path: str | Path, network: nn.Module) -> dict[str, Tensor]:
    """Return the boolean masks in a checkpoint or a ``.subnet`` file, by the full names of the weights.

    Args:
        path: of the file.
        network: not masked, built like the network in the file; it is not changed.

    Returns: masks in the shapes of the weights, on the device of the network's first parameter.

    Raises:
        ValueError: if the file cannot be read, or a checkpoint is of another network, or of a method that this package
            does not have.
    """
    path = str(path)
    if path.endswith(".subnet"):
        device = next(network.parameters()).device
        return {name: mask.to(device) for name, mask in subnet_file.masks_in(path).items()}
    return masks_of(checkpoint.read(path), network)


def masks_of(content: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
    """Return the masks in a checkpoint.

    Args:
        content: of the checkpoint, see ``checkpoint.read``.
        network: not masked, built like the network of the run; it is not changed.

    Raises:
        ValueError: if the run is of another network, or of a method that this package does not have.
    """
    identity, device = content["subnet"], next(network.parameters()).device
    # A subclass may have states beside the network: the weights of a loss, or a teacher.
    prefix = "network."
    states = {key.removeprefix(prefix): value for key, value in content["state_dict"].items() if key.startswith(prefix)}
    twin = copy.deepcopy(network)
    choice = Choice(**{key: identity[key] for key in Choice._fields if key in identity})
    # A method that prunes at initialization stores its masks as scores, so any such method reads them.
    chosen = any(value.dtype == torch.bool and key.endswith("scores") for key, value in states.items())
    method = methods.FixedMask({}) if chosen else _method(identity)
    masking.install_masks_(twin, method, weights=identity["weights"], seed=identity["seed"], choice=choice)
    if checkpoint.in_float64(content):
        twin.double()
    scores = scores_names(twin)
    own = {key: value for key, value in twin.state_dict().items() if key in states or key in scores}
    check_shapes(states, own, "the checkpoint is")
    twin.load_state_dict(states, strict=False)
    return {name: mask.to(device) for name, mask in masking.masks(twin).items()}


def _method(identity: Mapping[str, Any]) -> Method:
    name = identity["method"]
    if name not in methods.__all__:
        raise UserError(
            f"the checkpoint is of the method {name}, which is not one of {', '.join(methods.__all__)}: subnets "
            "export writes its masks into a .subnet file, which can be read without the method"
        )
    arguments = {key: value for key, value in identity.items() if key not in OF_THE_RUN}
    kind = getattr(methods, name)
    types = get_type_hints(kind.__init__)
    try:
        for key in arguments.keys() & types.keys():
            TypeAdapter(types[key]).validate_python(arguments[key], strict=True)
        method: Method = kind(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"the checkpoint has an invalid {name}: {first_mistake(error)}") from error
    if missing := method.identity().keys() - arguments.keys():
        raise UserError(f"the checkpoint has a {name} without {min(missing)}: it is damaged or of another version")
    return method
