"""A mask in as few bytes as it is worth: one bit a weight, or close to its entropy.

A mask of density d is worth n H(d) bits, H(d) = -d log2 d - (1 - d) log2(1 - d): 0.881 a weight at 0.3. Deflate's
Huffman code, of the standard library, comes within a percent of that for large layers, if it is given bytes to code:

    packed        eight weights a byte, the first in its highest bit; not coded
    coded         the same bytes, coded; the smallest for densities from 0.2 to 0.8
    gaps          how many weights lie between one that is kept and the next, coded; for low densities
    inverse gaps  how many lie between one that is not kept and the next, coded; for high densities

A gap is a byte, 0 to 254; a byte of 255 stands for 255 weights and no end of the gap.
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

_CHUNK = 1 << 20  # of weights or bytes gone through at a time: bounds the memory beside a large mask


def encode(mask: Bits) -> tuple[str, bytes]:
    """The name of the code that is the shortest for this mask, and the mask in it.

    Args:
        mask: flat.
    """
    packed = np.packbits(mask)
    coded = {"packed": packed.tobytes(), "coded": _deflated(iter([packed]))}
    if np.count_nonzero(mask) < mask.size / 4:
        coded["gaps"] = _deflated(_gaps(mask))
    elif np.count_nonzero(mask) > mask.size * 3 / 4:
        coded["inverse gaps"] = _deflated(_gaps(~mask))
    return min(coded.items(), key=lambda item: len(item[1]))


def decode(code: str, data: bytes, size: int) -> Bits:
    """The mask of so many weights, flat.

    Raises:
        ValueError: if the data are not of such a mask, to the last bit. What is allocated before that is seen is
            ``size`` bytes and some megabytes, whatever the data say.
    """
    if code not in CODES:
        raise UserError(f"unknown code {code!r:.60} of a mask; known: {', '.join(CODES)}")
    if code == "packed":
        return _unpacked(np.frombuffer(data, np.uint8), size)
    if code == "coded":
        chunks = _inflated(data, limit=-(-size // 8))
        return _unpacked(np.concatenate([np.empty(0, np.uint8), *chunks]), size)
    # A gap takes a byte of its own, or ends a weight that is counted: never more bytes than weights.
    mask = _between(_inflated(data, limit=size), size)
    return ~mask if code == "inverse gaps" else mask


def _deflated(chunks: Iterator[Bytes]) -> bytes:
    # Without a header, whose checksum the file's own digest makes needless; the Huffman code alone, for there is
    # nothing in a mask that repeats.
    coder = zlib.compressobj(zlib.Z_BEST_COMPRESSION, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return b"".join(map(coder.compress, map(np.ndarray.tobytes, chunks))) + coder.flush()


def _inflated(data: bytes, limit: int) -> Iterator[Bytes]:
    """What was deflated, in chunks; refused as soon as it is more than ``limit`` bytes."""
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
        raise UserError("a mask is followed by bytes that belong to nothing")


def _unpacked(packed: Bytes, size: int) -> Bits:
    if len(packed) != -(-size // 8):
        raise UserError("a mask is not as long as its layer")
    bits = np.unpackbits(packed)
    if bits[size:].any():
        raise UserError("a mask is followed by bits that belong to nothing")
    return bits[:size].view(np.bool_)


def _gaps(mask: Bits) -> Iterator[Bytes]:
    last = -1
    for start in range(0, mask.size, _CHUNK):
        kept = start + np.flatnonzero(mask[start : start + _CHUNK])
        if not kept.size:
            continue
        whole, rest = np.divmod(np.diff(kept, prepend=last) - 1, 255)
        ends = np.cumsum(whole + 1) - 1
        gaps = np.full(ends[-1] + 1, 255, np.uint8)
        gaps[ends] = rest
        last = kept[-1]
        yield gaps


def _between(chunks: Iterator[Bytes], size: int) -> Bits:
    mask, reached, ended = np.zeros(size, np.bool_), 0, True
    for gaps in chunks:
        if not gaps.size:
            continue
        ends = gaps < 255
        # The place after each byte: a gap that ends takes in the weight at its end.
        places = reached + np.cumsum(gaps + ends.astype(np.int64))
        reached, ended = int(places[-1]), bool(ends[-1])
        if reached > size:
            break
        mask[places[ends] - 1] = True
    if reached > size or not ended:
        raise UserError("a mask is not as long as its layer")
    return mask
