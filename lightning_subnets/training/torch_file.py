"""Torch files from strangers: a reader that runs no code and needs bounded memory, and the values that it accepts.

Its memory is bounded by the size of the file. ``torch.load(weights_only=True)`` runs no code either. But it does not
compare checksums, and a small file can make it allocate much memory with a compressed record, with
``bytearray(10**11)``, or with a dict that is copied many times.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict
from io import BytesIO
from pathlib import PurePath
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking.method import plain_number

DTYPES = {
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
DEEPEST = 64  # levels of nested dicts and lists; an optimizer's state has 5


class ForeignError(UserError):
    """A file holds more than tensors and plain values."""


def read(file: BinaryIO, *, unzipped: bool = False) -> Any:
    """Return the content of a torch file: CPU tensors and plain values in a tree of dicts, lists, tuples and sets.

    Every record is compared with its CRC-32 first, so a single changed bit is an error.

    Args:
        file: at its start.
        unzipped: also accept the format of torch up to 1.5, which has no checksums.

    Raises:
        ForeignError: if the file holds more than tensors and plain values.
        Exception: of any other type, if the file is truncated, damaged or not a torch file.
    """
    zipped = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    if zipped:
        pickled = _checked_pickle(file)
        size = len(pickled)
        _check_calls(BytesIO(pickled))
    elif unzipped:  # five pickles, then the numbers
        for _ in range(5):
            _check_calls(file)
        size = file.tell()
    else:
        raise zipfile.BadZipFile("it is not a zip archive")
    file.seek(0)
    with warnings.catch_warnings(action="ignore"):
        content = torch.load(file, map_location="cpu", weights_only=True)
    _check_tree_(content, most=4 * size)
    return content


def _checked_pickle(file: BinaryIO) -> bytes:
    """Return the pickle of an archive, after checking every record that torch would open.

    Torch and Python may see different archives in one file: torch also finds ``data.pkl`` by the name ``DATA.PKL``, and
    if two records have one name, it takes only one of them.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise zipfile.BadZipFile("it is compressed, which torch never does, and could expand to any size")
        if len({entry.filename.lower() for entry in entries}) < len(entries):
            raise zipfile.BadZipFile("two of its records have the same name")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the CRC-32 of {damaged} is wrong")
        seen = [(entry.filename.partition("/")[2], entry.file_size, _offset(entry, file)) for entry in entries]
    file.seek(0)
    reader: Any = torch._C.PyTorchFileReader(file)
    # Torch before 2.13 tells the size of a record only after reading it.
    size_of = getattr(reader, "get_record_size", lambda name: len(reader.get_record(name)))
    opened = [(name, size_of(name), reader.get_record_offset(name)) for name in reader.get_all_records()]
    if seen != opened:
        raise zipfile.BadZipFile("torch and Python find different records in it")
    pickled: bytes = reader.get_record("data.pkl")
    return pickled


def _offset(entry: zipfile.ZipInfo, file: BinaryIO) -> int:
    """Return the offset of a record's bytes, which follow its header, name and padding."""
    file.seek(entry.header_offset + 26)
    name, padding = struct.unpack("<HH", file.read(4))
    return entry.header_offset + 30 + int(name) + int(padding)


def _check_calls(file: BinaryIO | BytesIO) -> None:
    """Check what a pickle would call, without running the pickle.

    Raises:
        ForeignError: if it would call a function that is not in ``_HARMLESS``.
        ValueError: if it would call a function on an argument that is not written at the call, as torch writes it. A
            reference to an argument would let a few bytes copy a large dict a thousand times.
    """
    last, before = "", ""
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "GLOBAL" and argument not in _HARMLESS:
            raise ForeignError(str(argument).replace(" ", "."))
        written_here = last == "EMPTY_TUPLE" or (last.startswith("TUPLE") and not before.endswith("GET"))
        if name in ("REDUCE", "NEWOBJ") and not written_here:
            raise ValueError("a function is called on a value from elsewhere")
        if name == "BUILD" and last not in ("EMPTY_DICT", "SETITEM", "SETITEMS"):
            raise ValueError("an object is given attributes from elsewhere")
        if not name.endswith("PUT"):
            last, before = name, last


def _check_tree_(content: Any, *, most: int) -> None:
    """Check that all values are plain and form a tree, and clear the attributes of dicts, which could shadow methods.

    Args:
        content: of a file.
        most: the number of values that a file of this size can hold without repeating any.

    Raises:
        ValueError: if a value is not plain, or the tree has too many levels or values.
    """
    waiting, count = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        if count > most or depth > DEEPEST:
            raise ValueError("it repeats or contains itself")
        count += 1
        if isinstance(value, OrderedDict | Counter):
            vars(value).clear()
        if isinstance(value, dict):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list | tuple | set):
            waiting += [(each, depth + 1) for each in value]
        elif not isinstance(value, _PLAIN):
            raise ValueError(f"it holds a value of {type(value)}")


def readable(value: Any, name: str, depth: int = 0) -> Any:
    """Return a value as ``read`` will return it: NumPy's numbers become Python's numbers, and paths become texts.

    Args:
        value: to be written.
        name: names the value in the error message.
        depth: the level of the value in the file.

    Raises:
        ForeignError: if ``read`` would refuse the value.
    """
    kind, below = type(value), depth + 1
    if depth > DEEPEST:
        raise ForeignError(f"{name:.100} has more than {DEEPEST} levels")
    if kind in (dict, OrderedDict, Counter):
        return kind({readable(k, name, below): readable(each, f"{name}[{k!r}]", below) for k, each in value.items()})
    if kind in (list, tuple, set, torch.Size):
        return kind([readable(each, f"{name}[...]", below) for each in value])
    value = plain_number(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, str):
        return str.__str__(value)  # without its subclass, which the file would name
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Tensor):
        plain_tensor = kind in (Tensor, nn.Parameter) and value.layout is torch.strided and not value.is_meta
        if not plain_tensor or vars(value) or value.dtype not in DTYPES.values():
            raise ForeignError(f"{name} is a {kind.__name__} of {value.dtype}, {value.layout}")
    elif not isinstance(value, _PLAIN):
        raise ForeignError(f"{name} is a {kind.__module__}.{kind.__qualname__}")
    return value


_PLAIN = (str, int, float, type(None), Tensor, torch.dtype)
_HARMLESS = {
    "collections OrderedDict",
    "collections Counter",  # milestones of a scheduler
    "__builtin__ set",
    "torch Size",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in DTYPES),
    *(str(dtype).replace(".", " ") for dtype in DTYPES.values()),
}
