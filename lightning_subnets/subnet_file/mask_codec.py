"""Encode a mask in at most one bit per weight, or close to its entropy.

The entropy of a mask of n weights at density d is n H(d) bits, H(d) = -d log2 d - (1 - d) log2(1 - d); H(0.3) = 0.881.
Deflate's Huffman code comes within a percent of that for large layers, given suitable bytes:

    packed        eight weights per byte, the first in the highest bit; not compressed
    coded         the same bytes, compressed; the smallest for densities from 0.2 to 0.8
    gaps          the number of weights between a kept one and the next, compressed; for low densities
    inverse gaps  the number of weights between a dropped one and the next, compressed; for high densities

A gap is a byte from 0 to 254. A byte of 255 stands for 255 weights and continues the gap.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lightning_subnets.errors import UserError

Bits = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

CODES = ("packed", "coded", "gaps", "inverse gaps")

_CHUNK = 1 << 20  # weights or bytes processed at a time, to bound the memory beside a large mask


def encode(mask: Bits) -> tuple[str, bytes]:
    """Return the name of the shortest code for a flat mask, and the mask in this code."""
    packed = np.packbits(mask)
    coded = {"packed": packed.tobytes(), "coded": _compress(iter([packed]))}
    kept = np.count_nonzero(mask)
    if kept < mask.size / 4:
        coded["gaps"] = _compress(_gaps(mask))
    elif kept > mask.size * 3 / 4:
        coded["inverse gaps"] = _compress(_gaps(~mask))
    return min(coded.items(), key=lambda item: len(item[1]))


def decode(code: str, data: bytes, size: int) -> Bits:
    """Return a flat mask, and refuse data that do not encode a mask of ``size`` weights to the last bit.

    Whatever the data are, this allocates ``size`` bytes and some megabytes.
    """
    if code not in CODES:
        raise UserError(f"unknown mask code {code!r:.60}, expected one of {', '.join(CODES)}")
    if code == "packed":
        return _unpack(np.frombuffer(data, np.uint8), size)
    if code == "coded":
        chunks = _decompress(data, limit=-(-size // 8))
        return _unpack(np.concatenate([np.empty(0, np.uint8), *chunks]), size)
    # Each byte covers at least one weight, so there are never more bytes than weights.
    mask = _from_gaps(_decompress(data, limit=size), size)
    return ~mask if code == "inverse gaps" else mask


def _compress(chunks: Iterator[Bytes]) -> bytes:
    # Raw Deflate has no checksum, which the file's digest replaces. A mask has no repetitions to search for.
    coder = zlib.compressobj(zlib.Z_BEST_COMPRESSION, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return b"".join(coder.compress(chunk.tobytes()) for chunk in chunks) + coder.flush()


def _decompress(data: bytes, limit: int) -> Iterator[Bytes]:
    """Yield the decompressed data in chunks, and raise as soon as they exceed ``limit`` bytes."""
    decoder, rest = zlib.decompressobj(-zlib.MAX_WBITS), data
    while not decoder.eof:
        try:
            chunk = decoder.decompress(rest, _CHUNK)
        except zlib.error as error:
            raise UserError(f"a mask cannot be decoded ({error})") from error
        rest, limit = decoder.unconsumed_tail, limit - len(chunk)
        if limit < 0 or not (chunk or decoder.eof):
            raise UserError("a mask is not as long as its layer")
        yield np.frombuffer(chunk, np.uint8)
    if decoder.unused_data:
        raise UserError("a mask is followed by extra bytes")


def _unpack(packed: Bytes, size: int) -> Bits:
    if len(packed) != -(-size // 8):
        raise UserError("a mask is not as long as its layer")
    bits = np.unpackbits(packed)
    if bits[size:].any():
        raise UserError("a mask is followed by extra bits")
    return bits[:size].view(np.bool_)


def _gaps(mask: Bits) -> Iterator[Bytes]:
    last = -1
    for start in range(0, mask.size, _CHUNK):
        kept = start + np.flatnonzero(mask[start : start + _CHUNK])
        if not kept.size:
            continue
        full, rest = np.divmod(np.diff(kept, prepend=last) - 1, 255)
        ends = np.cumsum(full + 1) - 1
        gaps = np.full(ends[-1] + 1, 255, np.uint8)
        gaps[ends] = rest
        last = kept[-1]
        yield gaps


def _from_gaps(chunks: Iterator[Bytes], size: int) -> Bits:
    mask, position, ended = np.zeros(size, np.bool_), 0, True
    for gaps in chunks:
        if not gaps.size:
            continue
        ends = gaps < 255
        # The position after each byte; a byte that ends a gap also covers the weight after the gap.
        positions = position + np.cumsum(gaps + ends.astype(np.int64))
        position, ended = int(positions[-1]), bool(ends[-1])
        if position > size:
            break
        mask[positions[ends] - 1] = True
    if position > size or not ended:
        raise UserError("a mask is not as long as its layer")
    return mask
