"""Select the k largest scores exactly: the same mask on every device and in every memory format."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, library
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from lightning_subnets.errors import UserError

Key = TypeVar("Key", bound=Hashable)

_PARALLEL = 1 << 18  # for fewer scores, starting threads takes longer than they save


class NaNError(UserError):
    """A score is NaN; in training, because it has diverged."""


def top_k(scores: Tensor, k: int, *, absolute: bool = False) -> Tensor:
    """Return the boolean mask of the k largest scores; among equal scores, the lowest flat index comes first.

    Exactly k entries are True. Infinities are ordered as numbers, and -0.0 equals 0.0.

    Args:
        scores: any shape, any floating dtype.
        k: number selected, 0 <= k <= scores.numel().
        absolute: whether to rank by absolute value.

    Raises:
        ValueError: if k is out of range, or a score on a CPU is NaN. On a GPU, a check would wait for the device;
            there NaN ranks as the largest number, and the training module checks for it at its logging interval.
    """
    return top_k_each([scores], [k], absolute=absolute)[0]


def top_k_each(scores: Sequence[Tensor], counts: Sequence[int], *, absolute: bool = False) -> list[Tensor]:
    """Return the mask of each tensor, as ``top_k`` does; all are on one device, and a GPU selects from all at once."""
    for each, k in zip(scores, counts, strict=True):
        if not 0 <= k <= each.numel():
            raise ValueError(f"k = {k} is outside 0 to {each.numel()}, the number of scores")
    if torch.compiler.is_compiling():
        masks: list[Tensor] = _in_a_graph(list(scores), list(counts), absolute)
        return masks
    return _select(list(scores), list(counts), absolute)


def top_k_together(scores: Mapping[Key, Tensor], k: int, *, absolute: bool = False) -> dict[Key, Tensor]:
    """Return the masks of the k largest scores of all tensors together, as ``top_k`` selects them.

    All scores have one floating type and are on one device. Among equal scores, those of earlier tensors come first.
    """
    chosen = top_k(torch.cat([each.reshape(-1) for each in scores.values()]), k, absolute=absolute)
    parts = torch.split(chosen, [each.numel() for each in scores.values()])
    return {key: part.view(each.shape) for part, (key, each) in zip(parts, scores.items(), strict=True)}


def check_numbers(scores: Tensor) -> None:
    """Raise an error if a score is NaN, as ``top_k`` does. Methods that compare scores with a threshold call this.

    Raises:
        ValueError: if a score on a CPU is NaN. On a GPU, or in a graph, a check would wait for the device.
    """
    traced = torch.compiler.is_compiling() or torch._C._is_tracing() or get_proxy_mode() is not None
    if not traced and type(scores) is Tensor and scores.device.type == "cpu" and bool(scores.isnan().any()):
        raise NaNError("a score is NaN")


def nested_each(scores: Sequence[Tensor], counts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return for each tensor, as int8, how many of its masks of the k largest scores a score is in.

    A mask for each k of ``counts``, at least one and at most 127, as ``top_k`` selects it. A CPU ranks once for all.
    """
    if scores[0].device.type == "cpu" and not torch.compiler.is_compiling():
        return _each_on_cpu([each.detach() for each in scores], counts, absolute=False)
    repeated = [each for each, ks in zip(scores, counts, strict=True) for _ in ks]
    masks = iter(top_k_each(repeated, [k for ks in counts for k in ks]))
    found = []
    for ks in counts:
        levels = next(masks).to(torch.int8)
        for _ in ks[1:]:
            levels += next(masks)
        found.append(levels)
    return found


def _select(scores: list[Tensor], counts: list[int], absolute: bool) -> list[Tensor]:
    scores = [each.detach() for each in scores]
    if scores[0].device.type == "cpu":
        levels = _each_on_cpu(scores, [[k] for k in counts], absolute)
        return [each.view(torch.bool) for each in levels]
    if scores[0].is_cuda and all(each.dtype == torch.float32 for each in scores) and _triton_works(scores[0].device):
        from lightning_subnets.masking import radix_select

        return radix_select.top_k_each(scores, counts, absolute=absolute)
    return [_by_sort(each.abs() if absolute else each, k) for each, k in zip(scores, counts, strict=True)]


@functools.cache
def _triton_works(device: torch.device) -> bool:
    """Return whether Triton can compile and run on a device, which needs a C compiler and a place for its cache."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        from lightning_subnets.masking import radix_select

        radix_select.top_k_each([torch.zeros(16, device=device)], [8], absolute=False)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any part of Triton
        warnings.warn(
            f"Triton does not work here ({' '.join(str(error).split()):.200}), so masks are selected by sorting, which "
            "is slower: install gcc and Python's headers, or set TRITON_CACHE_DIR to a writable directory",
            RuntimeWarning,
            stacklevel=1,
        )
        return False
    return True


# A custom operator is opaque to torch.compile, which would otherwise trace NumPy or sort in the graph.
@library.custom_op("lightning_subnets::top_k_each", mutates_args=())
def _in_a_graph(scores: list[Tensor], counts: list[int], absolute: bool) -> list[Tensor]:
    masks = _select(scores, counts, absolute)
    # The fake below promises masks with memory of their own and the layout of the scores.
    return [torch.empty_like(each, dtype=torch.bool).copy_(mask) for each, mask in zip(scores, masks, strict=True)]


@_in_a_graph.register_fake
def _(scores: list[Tensor], counts: list[int], absolute: bool) -> list[Tensor]:
    return [torch.empty_like(each, dtype=torch.bool) for each in scores]


def _each_on_cpu(scores: Sequence[Tensor], counts: Sequence[Sequence[int]], absolute: bool) -> list[Tensor]:
    """Select in several threads; each call starts them, because a pool has no threads after a fork."""
    sizes = [each.numel() for each in scores]
    threads = min(torch.get_num_threads(), len(scores)) if sum(sizes) >= _PARALLEL else 1
    largest_first = sorted(range(len(scores)), key=sizes.__getitem__, reverse=True)
    masks: dict[int, Tensor] = {}

    def select(share: list[int]) -> None:
        # Reuse one buffer, because zeroing new memory would dominate.
        scratch = np.empty(8 * sizes[share[0]], np.uint8)
        for index in share:
            masks[index] = _on_cpu(scores[index], counts[index], absolute, scratch)

    if threads == 1:
        select(largest_first)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(select, (largest_first[first::threads] for first in range(threads))))
    return [masks[index] for index in range(len(scores))]


def _on_cpu(scores: Tensor, counts: Sequence[int], absolute: bool, scratch: NDArray[np.uint8]) -> Tensor:
    """Select by NumPy's introselect, in time linear in the number of scores; return the sum of the masks, int8."""
    order = sorted(range(scores.dim()), key=scores.stride, reverse=True)
    stored = scores.permute(order)  # in the order of memory, channels last or not
    # NumPy has no bfloat16; float32 holds every half-precision number, in the same order.
    array = (stored.float() if stored.dtype in (torch.bfloat16, torch.float16) else stored).reshape(-1).numpy()
    if array.size and np.isnan(array.max()):
        raise NaNError("a score is NaN")
    ranks = sorted(array.size - k for k in counts if 0 < k < array.size)
    if not ranks:
        return torch.full_like(scores, sum(k > 0 for k in counts), dtype=torch.int8)
    keys = scratch[: array.nbytes].view(f"i{array.itemsize}")
    _keys(array, absolute, out=keys)
    thresholds = []
    for lower, rank in zip([0, *ranks], ranks, strict=False):
        keys[lower:].partition(rank - lower)  # NumPy takes ten times as long for several ranks in one call
        thresholds.append(keys[rank])
    _keys(array, absolute, out=keys)
    masks = []
    for threshold, rank in zip(thresholds, ranks, strict=True):
        selected = keys >= threshold
        surplus = int(np.count_nonzero(selected)) - (array.size - rank)
        if surplus:
            ties = np.flatnonzero(keys == threshold)
            if order != sorted(order):
                places = np.array(np.unravel_index(ties, stored.shape))[np.argsort(order)]
                ties = ties[np.argsort(np.ravel_multi_index(tuple(places), scores.shape))]
            selected[ties[-surplus:]] = False
        masks.append(selected.view(np.int8))
    levels = masks[0]
    for mask in masks[1:]:
        levels += mask
    if full := sum(k == array.size for k in counts):
        levels += full
    return torch.from_numpy(levels).view(stored.shape).permute(np.argsort(order).tolist())


def _keys(array: NDArray[np.floating], absolute: bool, out: NDArray[np.signedinteger]) -> None:
    """Write integers in the order of the numbers, because introselect is twice as fast on integers.

    The bits of positive floats have this order; those of negative floats have it if all but the sign is inverted.
    """
    all_but_sign = np.iinfo(out.dtype).max
    if absolute:
        np.bitwise_and(array.view(out.dtype), all_but_sign, out=out)
    else:
        np.add(array, 0.0, out=out.view(array.dtype))  # -0.0 + 0.0 is 0.0
        out ^= (out >> (8 * array.itemsize - 1)) & all_but_sign


def _by_sort(flat: Tensor, k: int) -> Tensor:
    """Select by a stable sort, which never waits for the device."""
    order = torch.sort(flat.reshape(-1), descending=True, stable=True).indices
    mask = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device).scatter_(0, order[:k], True)
    return mask.view(flat.shape)
