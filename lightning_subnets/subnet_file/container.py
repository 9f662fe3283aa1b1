"""The bytes of a ``.subnet`` file: a safetensors file with the header as metadata and a digest of every byte.

    metadata    "lightning-subnets": the header as JSON; its "sha256" is the digest of the file with 64 zeros in place
                of the digest
    tensors     "mask/<weight>", "signs/<weight>", "values/<weight>", and "state/<name>" for the rest of the state dict;
                "tasks/<number>/..." is what a task has of its own

The digest detects damage. It is not a signature: anyone can write a file with a valid digest, so no value is trusted.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from lightning_subnets import atomic_file
from lightning_subnets.errors import UserError
from lightning_subnets.subnet_file import hub
from lightning_subnets.subnet_file.header import Header, Json

KEY = "lightning-subnets"

# A file may describe at most this many numbers per byte, so loading allocates memory in proportion to the file. A mask
# that keeps all weights, or none, can be shorter; its file is padded.
NUMBERS_PER_BYTE = 4096

_TASK = re.compile("tasks/[0-9]+/")
_ZEROS = "0" * 64
_MAX_HEADER = 4 << 20  # bytes; a config and the names of a thousand layers and classes take a tenth


def write(path: Path, header: Header, tensors: Mapping[str, Tensor], *, numbers: int = 0) -> None:
    """Write a file completely or not at all.

    Spaces after its header pad it until it may describe ``numbers`` numbers, see ``NUMBERS_PER_BYTE``.
    """
    from safetensors.torch import save

    saved = save(dict(tensors), metadata={KEY: header.to_json(sha256=_ZEROS)})
    missing = -(-numbers // NUMBERS_PER_BYTE) - len(saved)
    content = io.BytesIO(_padded(saved, missing) if missing > 0 else saved)
    try:
        text = _read_json(content, len(content.getbuffer()))
    except UserError as error:
        raise UserError(
            f"{path} would have a header of over {_MAX_HEADER >> 20} MB: save fewer tasks in a file"
        ) from error
    offset = _digest_offset(text, _ZEROS)
    digest = _digest(content, offset)
    content.seek(offset)
    content.write(digest.encode())
    atomic_file.write(path, content.getbuffer(), advice="make room, or name another place")


@contextmanager
def naming_file(path: str | Path) -> Iterator[None]:
    """Turn each error about the content of a file into a ``UserError`` that names the file."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): check its path and its permissions"
        ) from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({str(error)!r:.200}): copy or download it again") from error
    except UserError as error:
        raise UserError(f"{path} cannot be loaded: {error}") from error


class Container:
    """A ``.subnet`` file whose digest and header have been checked, and whose tensors are read on request."""

    def __init__(self, path: str | Path, *, task: str | None = None, whole: bool = False) -> None:
        """Open a file, or download it first if ``path`` is an ``hf://`` address.

        Args:
            path: of the file.
            task: the name of the task to read as if the file had nothing else, if the file has tasks.
            whole: open a file with tasks to read several of them by ``of_task``.

        Raises:
            ValueError: if the file cannot be downloaded or read, or is damaged, or ``task`` does not fit it.
        """
        from safetensors import safe_open

        local = hub.local_path(path)
        with naming_file(path):
            with local.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                self.header = Header.from_json(self._read_header(file))
            if (total := self.header.total * max(1, len(self.header.tasks))) > NUMBERS_PER_BYTE * self.size:
                raise UserError(f"a file of {self.size:,} bytes cannot hold {total:,} weights")
            self._file = safe_open(local, framework="pt")
            self._left, self._own = set(self._file.keys()), ""  # type: ignore[no-untyped-call]
            self._of_tasks: dict[str, set[str]] = {f"tasks/{index}/": set() for index in range(len(self.header.tasks))}
            for key in self._left:
                if (prefix := _TASK.match(key)) and prefix[0] in self._of_tasks:
                    self._of_tasks[prefix[0]].add(key)
            self._shared = self._left.difference(*self._of_tasks.values())
            if not whole:
                self._narrow_(task)

    def of_task(self, name: str) -> Container:
        """Return a view of one task of a file that was opened whole."""
        view = copy.copy(self)
        view._narrow_(name)
        return view

    def _narrow_(self, name: str | None) -> None:
        tasks = [task.name for task in self.header.tasks]
        self.header = self.header.of_task(name)
        if name is not None:
            self._own = f"tasks/{tasks.index(name)}/"
            own = self._of_tasks[self._own]
            # A tensor that the task has of its own takes the place of the file's.
            self._left = own | (self._shared - {key.removeprefix(self._own) for key in own})

    def _key(self, name: str) -> str:
        return self._own + name if self._own + name in self._left else name

    def take(self, name: str) -> Tensor:
        """Return a tensor of the file. Each tensor can be taken once."""
        key = self._key(name)
        if key not in self._left:
            raise UserError(f"tensor {name!r:.100} is missing")
        self._left.remove(key)
        tensor: Tensor = self._file.get_tensor(key)  # type: ignore[no-untyped-call]
        return tensor

    def __contains__(self, name: str) -> bool:
        return self._key(name) in self._left

    def check_all_taken(self, *, of_task: bool = False) -> None:
        """Check that every tensor of the file, or only those that the task has of its own, have been taken."""
        if left := {key for key in self._left if key.startswith(self._own if of_task else "")}:
            raise UserError(f"tensor {min(left)!r:.80} belongs to no part of the network")

    def _read_header(self, file: BinaryIO) -> Json:
        """Return the header's JSON after checking the file against the digest in it."""
        text = _read_json(file, self.size)
        try:
            content = json.loads(json.loads(text)["__metadata__"][KEY], parse_constant=_refuse_constant)
            stated = content.pop("sha256")
            offset = _digest_offset(text, stated)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError("it is not a .subnet file, or its header is damaged") from error
        if stated != (found := _digest(file, offset)):
            raise UserError(
                f"the file is damaged, because its digest is {found[:16]}... instead of {stated!r:.18}...: "
                "copy or download it again"
            )
        return dict(content)


def _read_json(file: BinaryIO, size: int) -> bytes:
    """Return the JSON at the start of a safetensors file, which follows its length in eight bytes."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, _MAX_HEADER):
        raise UserError("it is not a .subnet file, or it is truncated")
    return file.read(length)


def _padded(saved: bytes, missing: int) -> bytes:
    """Return a safetensors file with spaces after its header, whose tensors stay aligned to eight bytes."""
    length, missing = int.from_bytes(saved[:8], "little"), -(-missing // 8) * 8
    return (length + missing).to_bytes(8, "little") + saved[8 : 8 + length] + b" " * missing + saved[8 + length :]


def _digest_offset(text: bytes, digest: str) -> int:
    """Return the position of the digest in the file. The header is a JSON string inside JSON."""
    before = '\\"sha256\\":\\"'
    return 8 + text.index(f'{before}{digest}\\"'.encode()) + len(before)


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"JSON has no number {constant}")


def _digest(file: BinaryIO, offset: int) -> str:
    """Return the SHA-256 of the file with 64 zeros at ``offset``."""
    file.seek(0)
    digest = hashlib.sha256(file.read(offset) + _ZEROS.encode())
    file.seek(offset + len(_ZEROS))
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
