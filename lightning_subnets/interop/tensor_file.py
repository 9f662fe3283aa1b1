"""The tensors in a file from elsewhere, read without trusting it: nothing in it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import safetensors
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.training import torch_file


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a torch file or a safetensors file by name, on the CPU; where possible they stay in the file.

    A torch file is a state dict, or a dict that has one as "state_dict"; DataParallel's ``module.`` is taken away.
    Shapes are as the file gives them: a tensor may say that it is larger than the file, and has to be asked for its
    shape before it is copied.

    Raises:
        ValueError: if the file is missing, truncated, damaged or of another kind, holds more than tensors and plain
            values, or no state dict.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
            file.seek(0)
            # Its header, which is JSON, begins after eight bytes; no torch file has this byte there.
            content = _read_safetensors(path) if start[8:] == b"{" else _read_torch(file, path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a torch file or a safetensors file") from error
    except UserError:
        raise
    except Exception as error:  # torch raises half a dozen types for damaged files
        raise UserError(
            f"{path} cannot be read: it is truncated, damaged, or neither a torch file nor a safetensors file"
        ) from error
    return _state_of(content, path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safetensors.safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping


def _read_torch(file: BinaryIO, path: Path) -> Any:
    try:
        return torch_file.read(file, unzipped=True)
    except torch_file.ForeignError as error:
        raise UserError(
            f"{path} holds more than tensors and plain values ({error}): load it yourself with "
            "torch.load(..., weights_only=False) if you trust where it comes from, and save its state_dict alone"
        ) from error


def _state_of(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and content.keys() >= {"subnet", "state_dict"}:
        raise UserError(f"{path} is a checkpoint of lightning-subnets already: subnets export takes it")
    if isinstance(content, dict) and isinstance(inner := content.get("state_dict"), dict):
        content = inner
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path} holds no state dict: save a dict of tensors by name, torch.save(net.state_dict(), ...)"
        )
    for key, value in content.items():
        # Of some tensors a flag turns the sign, and not their numbers.
        ordinary = isinstance(value, Tensor) and value.dtype in torch_file.DTYPES.values() and not value.is_neg()
        if type(key) is not str or not key.isprintable() or not ordinary:
            raise UserError(f"{path} holds {key!r}, which is no ordinary tensor: save a dict of tensors by name")
    state = dict(content)
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state
