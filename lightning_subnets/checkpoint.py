"""Whether a checkpoint can be read, and whether it is of this run's network, method, weights and seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_subnets.errors import UserError

# What every checkpoint of ours has; "optimizer" names the optimizer's class.
_KEYS = {"subnet", "optimizer", "state_dict", "loops", "pytorch-lightning_version"}


def read(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds; its tensors stay in the file until they are looked at.

    Raises:
        ValueError: if the file is missing, truncated or no checkpoint of ours, or holds more than tensors and plain
            values.
    """
    if not Path(path).is_file():
        raise UserError(f"the checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises half a dozen types for damaged files
        raise UserError(
            f"the checkpoint {path} cannot be read: it is truncated, damaged or not a checkpoint"
        ) from error
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise UserError(f"{path} is not a checkpoint of lightning-subnets")
    return content


def check(checkpoint: Mapping[str, Any], identity: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Compare a checkpoint with the module that is to take it.

    Args:
        identity: what the module calls itself: its network, method, density, weights and seed.
        state: the module's state dict.

    Raises:
        ValueError: naming what differs.
    """
    theirs = checkpoint["subnet"]
    for key in dict.fromkeys((*identity, *theirs)):
        if identity.get(key) != theirs.get(key):
            raise UserError(
                f"the checkpoint has {key} = {theirs.get(key)!r} and this run has {key} = {identity.get(key)!r}: "
                "run it with the config.yaml that stands beside its checkpoints"
            )
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    their_shapes = {key: tuple(value.shape) for key, value in checkpoint["state_dict"].items()}
    for key in dict.fromkeys((*shapes, *their_shapes)):
        if shapes.get(key) != their_shapes.get(key):
            raise UserError(
                f"the checkpoint is of another network: {key} has shape {their_shapes.get(key, 'none')} there and "
                f"{shapes.get(key, 'none')} here"
            )
