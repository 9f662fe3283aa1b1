"""The bytes of a ``.subnet`` file: a safetensors file with the header as metadata and a digest of every byte.

    metadata    "lightning-subnets": the header as JSON; its "sha256" is the digest of the file with 64 zeros in place
                of the digest
    tensors     "mask/<weight>", "signs/<weight>", "values/<weight>", and "state/<name>" for the rest of the state dict

The digest detects damage. It is not a signature: anyone can write a file with a valid digest, so no value is trusted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from lightning_subnets.atomic_file import replacing
from lightning_subnets.errors import UserError
from lightning_subnets.subnet_file import hub
from lightning_subnets.subnet_file.header import Header, Json

KEY = "lightning-subnets"

# A file may describe at most this many numbers per byte, so loading allocates memory in proportion to the file. The
# shortest code, gaps of 255 weights at one bit each, reaches about half of it.
NUMBERS_PER_BYTE = 4096

_ZEROS = "0" * 64
_MAX_HEADER = 4 << 20  # bytes; a config and the names of a thousand layers and classes take a tenth


def write(path: Path, header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Write a file completely or not at all."""
    from safetensors.torch import save

    content = io.BytesIO(save(dict(tensors), metadata={KEY: header.to_json(sha256=_ZEROS)}))
    offset = _digest_offset(_read_json(content, len(content.getbuffer())), _ZEROS)
    digest = _digest(content, offset)
    content.seek(offset)
    content.write(digest.encode())
    with replacing(path) as file:
        file.write(content.getbuffer())


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

    def __init__(self, path: str | Path) -> None:
        """Open a file, or download it first if ``path`` is an ``hf://`` address.

        Raises:
            ValueError: if the file cannot be downloaded or read, or is damaged.
        """
        from safetensors import safe_open

        local = hub.local_path(path)
        with naming_file(path):
            with local.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                self.header = Header.from_json(self._read_header(file))
            if self.header.total > NUMBERS_PER_BYTE * self.size:
                raise UserError(f"a file of {self.size:,} bytes cannot hold {self.header.total:,} weights")
            self._file = safe_open(local, framework="pt")
            self._left = set(self._file.keys())  # type: ignore[no-untyped-call]

    def take(self, name: str) -> Tensor:
        """Return a tensor of the file. Each tensor can be taken once."""
        if name not in self._left:
            raise UserError(f"tensor {name!r:.100} is missing")
        self._left.remove(name)
        tensor: Tensor = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def check_all_taken(self) -> None:
        if self._left:
            raise UserError(f"tensor {min(self._left)!r:.80} belongs to no part of the network")

    def _read_header(self, file: BinaryIO) -> Json:
        """Return the header's JSON after checking the file against the digest in it."""
        text = _read_json(file, self.size)
        try:
            content = json.loads(json.loads(text)["__metadata__"][KEY], parse_constant=_refuse_constant)
            stated = content.pop("sha256")
            offset = _digest_offset(text, stated)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError("it is no .subnet file, or its header is damaged") from error
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
        raise UserError("it is no .subnet file, or it is truncated")
    return file.read(length)


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
