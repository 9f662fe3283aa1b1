"""A mask is restored to the bit, takes about its entropy, and other bytes are refused before they take memory."""

from __future__ import annotations

import math
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lightning_subnets as ls
from lightning_subnets.subnet_file import mask_codec
from lightning_subnets.subnet_file.mask_codec import CODES, Bits, decode, encode


def random_mask(size: int, density: float, seed: int = 0) -> Bits:
    mask: Bits = np.random.default_rng(seed).random(size) < density
    return mask


def in_code(code: str, mask: Bits) -> bytes:
    """Return the mask in this code, which need not be the shortest one."""
    packed = np.packbits(mask)
    if code == "packed":
        return packed.tobytes()
    chunks = iter([packed]) if code == "coded" else mask_codec._gaps(mask if code == "gaps" else ~mask)
    return mask_codec._compress(chunks)


def deflated(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return coder.compress(data) + coder.flush()


@given(size=st.integers(1, 4000), density=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_any_mask_is_restored_from_every_code(size: int, density: float, seed: int) -> None:
    mask = random_mask(size, density, seed)
    code, data = encode(mask)
    assert np.array_equal(decode(code, data, size), mask)
    assert len(data) <= -(-size // 8)
    for each in CODES:
        assert np.array_equal(decode(each, in_code(each, mask), size), mask)


@pytest.mark.parametrize("density", [0.0, 1e-6, 0.3, 1.0])
def test_a_mask_of_several_chunks_is_restored_from_every_code(density: float) -> None:
    size = 2 * mask_codec._CHUNK + 4097
    mask = random_mask(size, density)
    for border in (mask_codec._CHUNK, 2 * mask_codec._CHUNK):
        mask[border - 1 : border + 1] = [True, density < 0.5]
    for code in CODES:
        decoded = decode(code, in_code(code, mask), size)
        assert decoded.dtype == np.bool_
        assert np.array_equal(decoded, mask)


@pytest.mark.parametrize(
    ("density", "code", "excess"),
    [
        (0.01, "gaps", 0.015),
        (0.1, "gaps", 0.015),
        (0.3, "coded", 0.01),
        (0.5, "packed", 0),
        (0.9, "inverse gaps", 0.015),
    ],
)
def test_a_large_mask_takes_little_more_than_its_entropy(density: float, code: str, excess: float) -> None:
    mask = random_mask(2_000_000, density)
    found, data = encode(mask)
    entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
    assert found == code
    assert len(data) * 8 / mask.size <= entropy * (1 + excess) + 1e-5


def test_the_codes_never_change() -> None:
    mask = np.array([0, 0, 1, 0, 1, 1, 0, 0, 0, 1], np.bool_)
    assert in_code("packed", mask) == bytes([0b00101100, 0b01000000])
    assert zlib.decompress(in_code("coded", mask), -15) == bytes([0b00101100, 0b01000000])
    assert zlib.decompress(in_code("gaps", mask), -15) == bytes([2, 1, 0, 3])
    assert zlib.decompress(in_code("inverse gaps", mask), -15) == bytes([0, 0, 1, 2, 0, 0])
    assert zlib.decompress(in_code("gaps", np.arange(600) == 599), -15) == bytes([255, 255, 89])


@pytest.mark.parametrize("code", CODES)
def test_a_mask_of_another_length_is_refused(code: str) -> None:
    mask = random_mask(1003, 0.3)
    mask[-1] = code != "inverse gaps"  # weights after the last one that is counted take no bytes
    data = in_code(code, mask)
    for wrong in (*(data[:length] for length in range(len(data))), data + b"\0", data + data):
        with pytest.raises(ls.UserError, match="mask"):
            decode(code, wrong, len(mask))
    for size in (1, 995, 1002, *((1011,) if code in ("packed", "coded") else ())):
        with pytest.raises(ls.UserError, match="mask"):
            decode(code, data, size)


def test_extra_bits_and_unfinished_gaps_are_refused() -> None:
    for code, data in (("packed", bytes([0b11111000])), ("coded", deflated(bytes([0b11111000])))):
        with pytest.raises(ls.UserError, match="extra bits"):
            decode(code, data, 4)
    for gaps, size in ((b"\xff", 4), (b"\0\xff", 4), (b"\x04", 4), (b"\0" * 5, 4), (b"\xfe" * 200, 4), (b"\xff", 255)):
        with pytest.raises(ls.UserError, match="not as long as its layer"):
            decode("gaps", deflated(gaps), size)


def test_an_unknown_code_is_refused() -> None:
    message = r"unknown mask code 'x{50,60}\b.*expected one of packed, coded, gaps, inverse gaps"
    with pytest.raises(ls.UserError, match=message) as error:
        decode("x" * 10**6, b"", 8)
    assert len(str(error.value)) < 300


@given(data=st.binary(max_size=300), code=st.sampled_from(CODES), size=st.integers(1, 3000))
def test_any_bytes_are_a_mask_or_refused(data: bytes, code: str, size: int) -> None:
    for each in (data, deflated(data)):
        with suppress(ls.UserError):
            assert decode(code, each, size).shape == (size,)


@pytest.mark.parametrize("code", ["coded", "gaps", "inverse gaps"])
def test_a_gigabyte_of_zeros_is_refused_without_its_memory(code: str) -> None:
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    megabyte = coder.compress(bytes(1 << 20)) + coder.flush(zlib.Z_FULL_FLUSH)
    bomb = megabyte * 1024 + coder.flush()
    tracemalloc.start()
    try:
        with pytest.raises(ls.UserError, match="not as long as its layer"):
            decode(code, bomb, 8_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50 << 20
