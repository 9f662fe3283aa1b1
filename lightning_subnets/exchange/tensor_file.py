"""The tensors in a file from elsewhere, read without trusting it: nothing in it is run."""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from lightning_subnets.errors import UserError


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
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a torch file or a safetensors file") from error
    try:
        # Its header, which is JSON, begins after eight bytes; no torch file has this byte there.
        content = _read_safetensors(path) if start[8:] == b"{" else _read_torch(path, start[:4] == _ZIP)
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


def _read_torch(path: Path, zipped: bool) -> Any:
    foreign = next((name for name in _names(path, zipped) if name not in _HARMLESS), None)
    if foreign is not None:
        raise UserError(
            f"{path} holds more than tensors and plain values ({foreign.replace(' ', '.')}): load it yourself with "
            "torch.load(..., weights_only=False) if you trust where it comes from, and save its state_dict alone"
        )
    with warnings.catch_warnings(action="ignore"):  # of what it then reads, or refuses
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _names(path: Path, zipped: bool) -> Iterator[str]:
    """All that the pickle in a torch file would call, as "module name"; it is only looked at.

    ``torch.load`` runs nothing that is not harmless, but some of that takes as much memory as it is told to.
    """
    if not zipped:  # as torch wrote until 1.5, and with it the public checkpoints: five pickles, then the numbers
        with path.open("rb") as file:
            for _ in range(5):
                yield from _names_in(file)
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise zipfile.BadZipFile("torch compresses nothing, and a little can become very much")
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                with archive.open(entry) as file:
                    yield from _names_in(file)


def _names_in(file: Any) -> Iterator[str]:
    return (str(argument) for opcode, argument, _ in pickletools.genops(file) if opcode.name == "GLOBAL")


def _state_of(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and dict.keys(content) >= {"subnet", "state_dict"}:
        raise UserError(f"{path} is a checkpoint of lightning-subnets already: subnets export takes it")
    if isinstance(content, dict) and isinstance(inner := dict.get(content, "state_dict"), dict):
        content = inner
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path} holds no state dict: save a dict of tensors by name, torch.save(net.state_dict(), ...)"
        )
    for key, value in dict.items(content):  # its own ``items`` may be something else
        # Of some tensors a flag turns the sign, and not their numbers.
        ordinary = isinstance(value, Tensor) and value.dtype in _DTYPES.values() and not value.is_neg()
        if type(key) is not str or not key.isprintable() or not ordinary:
            raise UserError(f"{path} holds {key!r}, which is no ordinary tensor: save a dict of tensors by name")
    state = dict(dict.items(content))
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


_ZIP = b"PK\x03\x04"
_DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_HARMLESS = {
    "collections OrderedDict",
    "collections Counter",  # milestones of a scheduler
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in _DTYPES),
}
