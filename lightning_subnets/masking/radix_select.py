"""Select the k largest of each of many tensors exactly on a GPU, all at once and without waiting; needs Triton."""

# mypy: allow-untyped-decorators

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 32768  # elements per program, many more than its 256 additions to the histogram in global memory
BLOCK = 4096  # elements that a program holds in registers at a time
ALIGNMENT = 16  # bytes; a vectorised access must start at a multiple


@torch.no_grad()
def top_k_each(scores: Sequence[Tensor], counts: Sequence[int], *, absolute: bool) -> list[Tensor]:
    """Return boolean masks of the ``counts[i]`` largest entries of every ``scores[i]``, by a radix select.

    The key of an element is the pair (score, -index), so no two keys are equal. The k-th largest key is found digit by
    digit, the most significant first: among the keys that share its known digits, each value of the next digit is
    counted, and the counts summed from the top give that digit. Keys at or above the k-th largest are selected.

    Scores are ordered as in ``selection.top_k``, and NaN of either sign is the largest. The result does not depend on
    how threads are scheduled.

    Args:
        scores: float32, of any shapes, each of less than 2**31 elements, all on one device.
        counts: how many to select of each, from 0 to its number of elements; not checked.
        absolute: whether to rank by absolute value.

    Returns: a mask of each tensor's shape, with its strides if it is contiguous or channels-last.
    """
    scores = [_readable(tensor) for tensor in scores]
    device = scores[0].device
    sizes = tuple((tensor.numel(), k, *_order(tensor)) for tensor, k in zip(scores, counts, strict=True))
    chunks, offsets = _layout(sizes, CHUNK, device)
    addresses = _to_device(tuple(tensor.data_ptr() for tensor in scores), device)
    # One histogram per digit, because the programs of a launch still read that of the launch before.
    histograms = torch.zeros((8, len(scores), 256), dtype=torch.int32, device=device)
    states = torch.empty((8, len(scores), 3), dtype=torch.int64, device=device)
    masks = torch.empty(offsets[-1], dtype=torch.uint8, device=device)
    grid = (len(chunks),)
    shared = (addresses, chunks, states, histograms, len(scores))
    with torch.cuda.device_of(masks):  # type: ignore[no-untyped-call]
        for step in range(8):
            _count[grid](*shared, step=step, absolute=absolute, chunk=CHUNK, block=BLOCK, num_warps=8)
        _write[grid](*shared, masks, absolute=absolute, alignment=ALIGNMENT, chunk=CHUNK, block=BLOCK, num_warps=8)
    flat = masks.view(torch.bool)
    return [flat.as_strided(x.shape, x.stride(), offset) for x, offset in zip(scores, offsets, strict=False)]


def _readable(scores: Tensor) -> Tensor:
    """Return the scores, or a copy, in memory that the kernels can read: dense, in a known order, aligned."""
    if not scores.is_contiguous() and not (scores.dim() > 1 and scores.movedim(1, -1).is_contiguous()):
        scores = scores.contiguous()
    return scores.clone() if scores.data_ptr() % ALIGNMENT else scores


def _order(scores: Tensor) -> tuple[int, int]:
    """Return channels C and positions P of a tensor (N, C, P) in memory order (N, P, C); (1, 1) if it is contiguous."""
    return (1, 1) if scores.is_contiguous() else (scores.shape[1], scores[0, 0].numel())


@lru_cache(maxsize=8)
def _layout(sizes: tuple[tuple[int, ...], ...], chunk: int, device: torch.device) -> tuple[Tensor, list[int]]:
    """Return a row for every chunk, [chunks, 7], and the offset of each mask, then the total size.

    A row holds the number of the tensor, the number of the chunk in the tensor, the offset of the tensor's mask in
    units of ``ALIGNMENT``, and the tensor's elements, k, channels and positions.
    """
    begins = [0]
    for numel, *_ in sizes:
        begins.append(begins[-1] + triton.cdiv(numel, ALIGNMENT))
    rows = [
        torch.tensor([[tensor, number, begins[tensor], *size] for number in range(triton.cdiv(size[0], chunk))])
        for tensor, size in enumerate(sizes)
        if size[0]
    ]
    table = torch.cat(rows) if rows else torch.empty((0, 7), dtype=torch.int64)
    return table.to(device, non_blocking=True), [begin * ALIGNMENT for begin in begins]


@lru_cache(maxsize=8)
def _to_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers).to(device, non_blocking=True)


@triton.jit
def _count(
    addresses: tl.tensor,
    chunks: tl.tensor,
    states: tl.tensor,
    histograms: tl.tensor,
    tensors: tl.tensor,
    step: tl.constexpr,
    absolute: tl.constexpr,
    chunk: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Count the values of digit ``step`` among the keys of a chunk that share the threshold's earlier digits."""
    row = chunks + tl.program_id(0) * 7
    tensor, number = tl.load(row), tl.load(row + 1)
    threshold, wanted, done = _threshold(states, histograms, tensor, tensors, tl.load(row + 4), step)
    if number == 0:
        state = states + (step * tensors + tensor) * 3
        tl.store(state, threshold)
        tl.store(state + 1, wanted)
        tl.store(state + 2, done)
    if done:
        return
    scores, first, length = _chunk(addresses, row, chunk)
    score_threshold, index_threshold = (threshold >> 32).to(tl.uint32), threshold.to(tl.uint32)
    bins = tl.arange(0, 256)
    histogram = histograms + (step * tensors + tensor) * 256
    counts = tl.zeros([256], tl.int32)
    for begin in range(0, length, block):
        lanes = begin + tl.arange(0, block)
        key = _score_key(_load(scores, begin, length, block), absolute)
        # If a key shares the earlier digits, the XOR leaves nothing above this digit.
        if step < 4:
            digit = (key ^ score_threshold) >> (24 - 8 * step)
            shares = (lanes < length) & (digit < 256)
        else:
            digit = (_index_key(row, first + lanes) ^ index_threshold) >> (56 - 8 * step)
            shares = (lanes < length) & (key == score_threshold) & (digit < 256)
        digit = digit.to(tl.int32)
        sharing = tl.sum(shares.to(tl.int32))
        # tl.histogram takes the same time for any number of keys; a few are faster added one by one.
        if sharing > block // 16:
            counts += tl.histogram(tl.where(shares, digit, 0), 256) - tl.where(bins == 0, block - sharing, 0)
        else:
            tl.atomic_add(histogram + digit, 1, mask=shares, sem="relaxed")
    tl.atomic_add(histogram + bins, counts, mask=counts > 0, sem="relaxed")


@triton.jit
def _write(
    addresses: tl.tensor,
    chunks: tl.tensor,
    states: tl.tensor,
    histograms: tl.tensor,
    tensors: tl.tensor,
    masks: tl.tensor,
    absolute: tl.constexpr,
    alignment: tl.constexpr,
    chunk: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Write the mask of a chunk: 1 where the key is at or above the threshold."""
    row = chunks + tl.program_id(0) * 7
    threshold, _, _ = _threshold(states, histograms, tl.load(row), tensors, tl.load(row + 4), 8)
    scores, first, length = _chunk(addresses, row, chunk)
    score_threshold, index_threshold = (threshold >> 32).to(tl.uint32), threshold.to(tl.uint32)
    mask = masks + tl.load(row + 2) * alignment + tl.load(row + 1) * chunk
    for begin in range(0, length, block):
        lanes = begin + tl.arange(0, block)
        key = _score_key(_load(scores, begin, length, block), absolute)
        selected = key >= score_threshold
        # Compare indices only if there are ties, because their divisions are slow.
        if index_threshold > 0:
            selected &= (key > score_threshold) | (_index_key(row, first + lanes) >= index_threshold)
        # Without a bounds mask the access is vectorised.
        if begin + block <= length:
            tl.store(mask + lanes, selected.to(tl.uint8))
        else:
            tl.store(mask + lanes, selected.to(tl.uint8), mask=lanes < length)


@triton.jit
def _threshold(
    states: tl.tensor, histograms: tl.tensor, tensor: tl.tensor, tensors: tl.tensor, k: tl.tensor, step: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return the threshold (score key, index key) in 64 bits, its first ``step`` digits known and the others 0.

    The second result is how many of the keys that share those digits are wanted. The third is 1 if all are wanted,
    which makes the threshold final.
    """
    if step == 0:
        threshold, wanted, done = tl.zeros_like(k), k, tl.zeros_like(k)
    else:
        before = (step - 1) * tensors + tensor
        threshold = tl.load(states + before * 3)
        wanted = tl.load(states + before * 3 + 1)
        done = tl.load(states + before * 3 + 2)
        if done == 0:
            bins = tl.arange(0, 256)
            counts = tl.load(histograms + before * 256 + bins)
            above = tl.sum(counts) - tl.cumsum(counts)
            digit = tl.sum((above + counts >= wanted).to(tl.int32)) - 1
            threshold |= digit.to(tl.int64) << (64 - 8 * step)
            wanted -= tl.sum(tl.where(bins == digit, above, 0))
            done += (wanted == tl.sum(tl.where(bins == digit, counts, 0))).to(tl.int64)
    return threshold, wanted, done


@triton.jit
def _chunk(addresses: tl.tensor, row: tl.tensor, chunk: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return a pointer to a chunk's scores, as integers of the same bits, the chunk's offset and its length."""
    first = tl.load(row + 1) * chunk
    scores = tl.load(addresses + tl.load(row)).to(tl.pointer_type(tl.int32))
    return (
        tl.multiple_of(scores, 16) + first,
        first.to(tl.int32),
        tl.minimum(tl.load(row + 3) - first, chunk).to(tl.int32),
    )


@triton.jit
def _load(scores: tl.tensor, begin: tl.tensor, length: tl.tensor, block: tl.constexpr) -> tl.tensor:
    lanes = begin + tl.arange(0, block)
    # Without a bounds mask the access is vectorised.
    return tl.load(scores + lanes) if begin + block <= length else tl.load(scores + lanes, lanes < length, 0)


@triton.jit
def _score_key(bits: tl.tensor, absolute: tl.constexpr) -> tl.tensor:
    """Return an unsigned integer ordered as the float of these bits; all NaN have one key, the largest."""
    infinity = 0x7F800000
    magnitude = tl.minimum(bits & 0x7FFFFFFF, infinity + 1)
    if not absolute:
        magnitude = tl.where((bits < 0) & (magnitude <= infinity), -magnitude, magnitude)
    return magnitude.to(tl.uint32, bitcast=True) ^ 0x80000000


@triton.jit
def _index_key(row: tl.tensor, offset: tl.tensor) -> tl.tensor:
    """Return 2**31 - 1 minus the row-major index of the element at ``offset`` in a tensor's memory."""
    channels, positions = tl.load(row + 5).to(tl.int32), tl.load(row + 6).to(tl.int32)
    within = offset % (channels * positions)
    index = offset - within + within % channels * positions + within // channels
    return (0x7FFFFFFF - index).to(tl.uint32)
