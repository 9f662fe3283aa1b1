"""Hostile torch files, and functions that replace any value of a file by a value of another kind."""

from __future__ import annotations

import copy
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import torch


def torch_file(content: Any, *, zipped: bool = True) -> bytes:
    file = BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def zip_file(pickled: bytes, storage: bytes = b"", compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a torch file of this pickle and of one storage, "0"."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in (
            ("data.pkl", pickled),
            ("version", b"3\n"),
            ("byteorder", b"little"),
            ("data/0", storage),
        ):
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


class Call:
    """An object that pickles as a call of a function, followed by the changes ``then`` of its result."""

    def __init__(self, function: Any, *arguments: Any, then: tuple[Any, ...] = ()) -> None:
        self.reduced = (function, arguments, *then)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


class Pickler(pickle.Pickler):
    """A pickler that treats a tuple ("storage", ...) as torch's pickler treats a storage."""

    def persistent_id(self, value: Any) -> Any:
        return value if isinstance(value, tuple) and value[:1] == ("storage",) else None


def pickled(content: Any) -> bytes:
    file = BytesIO()
    Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def view(kind: type, numel: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Call:
    """Return a tensor in the storage "0", which claims to have ``numel`` values."""
    storage = ("storage", kind, "0", "cpu", numel)
    return Call(torch._utils._rebuild_tensor_v2, storage, 0, shape, strides, False, OrderedDict())


GONE = object()  # replaces a value whose key is deleted too


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths to all values in nested dicts and lists."""
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield path
    for key, each in inner:
        yield from places(each, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy with another value at a path."""
    if not path:
        return new
    value = copy.deepcopy(value)
    owner = value
    for key in path[:-1]:
        owner = owner[key]
    if new is GONE:
        del owner[path[-1]]
    else:
        owner[path[-1]] = new
    return value
