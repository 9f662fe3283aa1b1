"""Torch's files, read without trusting them: nothing in one is run, and it takes no more memory than it has bytes.

``torch.load`` runs nothing that a file names, but it reads no checksum, and a small file can have it allocate what is
not there: by a compressed record, by ``bytearray(10**11)``, or by one dict that is copied a thousand times.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict
from io import BytesIO
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lightning_subnets.errors import UserError

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
DEEPEST = 64  # levels of dicts and lists in each other; an optimizer's state has 5


class ForeignError(UserError):
    """A file holds more than tensors and plain values."""


def read(file: BinaryIO, *, unzipped: bool = False) -> Any:
    """What a torch file holds: tensors on the CPU, and plain values, in a tree of dicts, lists, tuples and sets.

    Every record is compared with its CRC-32 first, so that one bit that has changed is an error.

    Args:
        file: at its beginning.
        unzipped: also take the form that torch wrote until 1.5, which has no checksums.

    Raises:
        ForeignError: if it holds more than tensors and plain values.
        Exception: of any other type, if it is truncated, damaged or no torch file.
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
        raise zipfile.BadZipFile("it is no archive")
    file.seek(0)
    with warnings.catch_warnings(action="ignore"):  # of what it then reads, or refuses
        content = torch.load(file, map_location="cpu", weights_only=True)
    _check_tree_(content, most=4 * size)
    return content


def _checked_pickle(file: BinaryIO) -> bytes:
    """The pickle of an archive, once all that torch would open in it is found to be as it was written.

    Torch and Python may see different archives in one file: torch finds ``data.pkl`` by the name ``DATA.PKL`` too, and
    of two records by one name it takes one.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise zipfile.BadZipFile("torch compresses nothing, and a little can become very much")
        if len({entry.filename.lower() for entry in entries}) < len(entries):
            raise zipfile.BadZipFile("two of its records have one name")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the CRC-32 of {damaged} is another one")
        seen = [(entry.filename.partition("/")[2], entry.file_size, _offset(entry, file)) for entry in entries]
    file.seek(0)
    reader: Any = torch._C.PyTorchFileReader(file)
    opened = [(name, reader.get_record_size(name), reader.get_record_offset(name)) for name in reader.get_all_records()]
    if seen != opened:
        raise zipfile.BadZipFile("it has two lists of its records")
    pickled: bytes = reader.get_record("data.pkl")
    return pickled


def _offset(entry: zipfile.ZipInfo, file: BinaryIO) -> int:
    """Where the bytes of a record begin: after a header, and a name and padding whose lengths it gives."""
    file.seek(entry.header_offset + 26)
    name, padding = struct.unpack("<HH", file.read(4))
    return entry.header_offset + 30 + int(name) + int(padding)


def _check_calls(file: BinaryIO | BytesIO) -> None:
    """Check what a pickle would call; it is only looked at.

    Raises:
        ForeignError: if something is not harmless.
        ValueError: if something harmless would be called on a value that stands elsewhere in the pickle. So a dict
            could be copied a thousand times by as few bytes; torch writes each argument where it is needed.
    """
    last, before = "", ""
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "GLOBAL" and argument not in _HARMLESS:
            raise ForeignError(str(argument).replace(" ", "."))
        anew = last == "EMPTY_TUPLE" or (last.startswith("TUPLE") and not before.endswith("GET"))
        if name in ("REDUCE", "NEWOBJ") and not anew:
            raise ValueError("a function is called on a value from elsewhere")
        if name == "BUILD" and last not in ("EMPTY_DICT", "SETITEM", "SETITEMS"):
            raise ValueError("an object is given attributes from elsewhere")
        if not name.endswith("PUT"):
            last, before = name, last


def _check_tree_(content: Any, *, most: int) -> None:
    """Check that values are plain and in a tree, and take attributes off dicts, which their methods might be hidden by.

    Raises:
        ValueError: if they are not, or the tree is deeper or larger than a file of this size could have one without
            repeating itself.
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
