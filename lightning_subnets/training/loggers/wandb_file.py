"""What W&B has written on this disk: the rows of its ``.wandb`` files, which is all that an offline run is."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The file is a LevelDB log after a header of its own: records in one or several pieces, none of which crosses the end
# of a block.
_HEADER = 7
_BLOCK = 32768
_PIECE = struct.Struct("<IHB")  # checksum, length, kind
_WHOLE, _LAST = 1, 4


def history(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a ``.wandb`` file, in the order in which they were logged, as far as the file is complete.

    Each has the names and values logged, and ``_step``.
    """
    for record in records(path):
        if record.HasField("history"):
            yield {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def records(path: Path) -> Iterator[Any]:
    """All records of a ``.wandb`` file, as wandb's own messages."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    for content in _records(path.read_bytes()):
        record = Record()
        try:
            record.ParseFromString(content)
        except DecodeError:  # what a machine that lost power has left of the file
            return
        yield record


def _records(data: bytes) -> Iterator[bytes]:
    position, record = _HEADER, b""
    while position + _PIECE.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _PIECE.size:
            position += left
            continue
        _, length, kind = _PIECE.unpack_from(data, position)
        position += _PIECE.size
        if kind == 0 or position + length > len(data):
            return
        record += data[position : position + length]
        position += length
        if kind in (_WHOLE, _LAST):
            yield record
            record = b""
