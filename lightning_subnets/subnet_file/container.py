"""The file itself: safetensors, with the header as metadata and a digest over every byte.

    metadata    "lightning-subnets": the header, JSON; in it "sha256", of the whole file with zeros for these 64 digits
    tensors     "mask/<layer>", "signs/<layer>", "values/<layer>", and "state/<name>" of the rest of the state dict

The digest tells of any damage. It is no signature: who changes a file on purpose can make it anew, so that nothing in a
file is believed because of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lightning_subnets.atomic_file import replacing
from lightning_subnets.errors import UserError
from lightning_subnets.subnet_file.header import Header, Json

KEY = "lightning-subnets"

# A file may be of this many numbers for each of its bytes: what is allocated to load it is in proportion to it. The
# shortest of codes, gaps of 255 weights at one bit each, comes to half as many.
NUMBERS_PER_BYTE = 4096

_BLANK = "0" * 64
_LONGEST = 4 << 20  # bytes of a header; a config and the names of some thousand layers and classes take a tenth


def write(path: Path, header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Write a file, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    content = io.BytesIO(save(dict(tensors), metadata={KEY: header.to_json(sha256=_BLANK)}))
    place = _place(_beginning(content, len(content.getbuffer())), _BLANK)
    digest = _digest(content, place)
    content.seek(place)
    content.write(digest.encode())
    with replacing(path) as file:
        file.write(content.getbuffer())


class Container:
    """A file that has been read: its header, and its tensors as they are asked for.

    Args:
        path: of the file.

    Raises:
        ValueError: if it is missing, is no ``.subnet`` file, or a byte of it is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                self.header = Header.from_json(self._checked(file))
            if self.header.total > NUMBERS_PER_BYTE * self.size:
                raise UserError(f"{self.size:,} bytes cannot be of the {self.header.total:,} weights that it says")
            self._file = safe_open(path, framework="pt")
            self._left = set(self._file.keys())  # type: ignore[no-untyped-call]
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
        except SafetensorError as error:
            raise UserError(f"{path} is damaged ({str(error)!r:.200})") from error
        except UserError as error:
            raise UserError(f"{path} cannot be loaded: {error}") from error

    def take(self, name: str) -> Tensor:
        """A tensor of the file, each once.

        Raises:
            ValueError: if there is none of this name.
        """
        if name not in self._left:
            raise UserError(f"it has no {name!r}")
        self._left.remove(name)
        try:
            tensor: Tensor = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        except SafetensorError as error:  # of a type that torch does not have
            raise UserError(f"its {name!r:.100} cannot be read ({str(error)!r:.200})") from error
        return tensor

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def check_all_taken(self) -> None:
        """Check that nothing is left in the file that nobody has asked for.

        Raises:
            ValueError: naming the first of it.
        """
        if self._left:
            raise UserError(f"it has {min(self._left)!r:.80}, which belongs to nothing")

    def _checked(self, file: BinaryIO) -> Json:
        """The header's JSON, once the digest in it is that of the file."""
        beginning = _beginning(file, self.size)
        try:
            content = json.loads(json.loads(beginning)["__metadata__"][KEY], parse_constant=_refuse)
            stated = content.pop("sha256")
            place = _place(beginning, stated)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError("it is no .subnet file, or its beginning is damaged") from error
        if stated != (found := _digest(file, place)):
            raise UserError(
                f"it is damaged: its bytes have the digest {found[:16]}..., and had {stated!r:.18}... when written; "
                "get it again"
            )
        return dict(content)


def _beginning(file: BinaryIO, size: int) -> bytes:
    """The JSON that a safetensors file begins with, after its length in eight bytes."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, _LONGEST):
        raise UserError("it is no .subnet file, or it is truncated")
    return file.read(length)


def _place(beginning: bytes, digest: str) -> int:
    """Where the digest stands in the file."""
    before = '\\"sha256\\":\\"'  # in a string of JSON in JSON
    return 8 + beginning.index(f'{before}{digest}\\"'.encode()) + len(before)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON's")


def _digest(file: BinaryIO, place: int) -> str:
    """Of the whole file, with zeros for the 64 digits that begin at ``place``."""
    file.seek(0)
    digest = hashlib.sha256(file.read(place) + _BLANK.encode())
    file.seek(place + len(_BLANK))
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
