"""The radix select against a plain stable sort: on a GPU if there is one, else through Triton's interpreter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from lightning_subnets.masking import radix_select, selection
from lightning_subnets.masking.radix_select import top_k_each

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter is slow, and compiled a block must have an element for every thread.
BLOCK = 1024 if torch.cuda.is_available() else 16
CHUNK = 2 * BLOCK

SPECIAL = [math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, 1.0, 1.0000001, -1.0, 2.0]


@pytest.fixture(autouse=True, scope="module")
def _small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radix_select, "CHUNK", CHUNK)
        patch.setattr(radix_select, "BLOCK", BLOCK)
        yield


def stable_sort(scores: Tensor, k: int, absolute: bool) -> Tensor:
    """Select by Python's own stable sort, in which -0.0 equals 0.0; NaN comes first."""
    flat = (scores.abs() if absolute else scores).cpu().flatten().tolist()
    kept = sorted(range(len(flat)), key=lambda index: (0, 0.0) if math.isnan(flat[index]) else (1, -flat[index]))
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[kept[:k]] = True
    return mask.view(scores.shape)


def assert_selected(scores: Sequence[Tensor], counts: Sequence[int], absolute: bool = False) -> None:
    masks = top_k_each(scores, counts, absolute=absolute)
    assert len(masks) == len(scores)
    for each, k, mask in zip(scores, counts, masks, strict=True):
        assert mask.dtype == torch.bool
        assert torch.equal(mask.cpu(), stable_sort(each, k, absolute))


@st.composite
def layers(draw: st.DrawFn) -> Tensor:
    """Draw scores among the special values, or among a few of any, in one of several memory layouts."""
    values = draw(st.just(SPECIAL) | st.lists(st.floats(width=32), min_size=1, max_size=60))
    layout = draw(st.sampled_from(["plain", "channels_last", "transposed", "every_other", "unaligned"]))
    shape = {
        "plain": (draw(st.integers(1, 5 * BLOCK)),),
        "channels_last": draw(st.tuples(*[st.integers(1, 4)] * 4)),
    }.get(layout, (draw(st.integers(1, 6)), draw(st.integers(2, 8))))
    indices = torch.randint(len(values), shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    scores = torch.tensor(values, dtype=torch.float32)[indices].to(DEVICE)
    if layout == "channels_last":
        return scores.to(memory_format=torch.channels_last)
    if layout == "transposed":
        return scores.t()
    if layout == "every_other":
        return scores[:, ::2]
    return scores.flatten()[1:] if layout == "unaligned" else scores


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[Tensor], list[int]]:
    scores = draw(st.lists(layers(), min_size=1, max_size=3))
    return scores, [draw(st.sampled_from([0, each.numel()]) | st.integers(0, each.numel())) for each in scores]


@settings(max_examples=10)
@given(networks(), st.booleans())
def test_the_masks_are_those_of_a_plain_stable_sort(network: tuple[list[Tensor], list[int]], absolute: bool) -> None:
    assert_selected(*network, absolute=absolute)


@pytest.mark.long
@settings(max_examples=40)
@given(networks(), st.booleans())
def test_the_masks_are_those_of_a_plain_stable_sort_in_a_longer_campaign(
    network: tuple[list[Tensor], list[int]], absolute: bool
) -> None:
    assert_selected(*network, absolute=absolute)


@pytest.mark.thorough
def test_the_lowest_index_of_very_many_equal_scores_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radix_select, "CHUNK", 2**15)
    monkeypatch.setattr(radix_select, "BLOCK", 2**14)
    scores = torch.ones(2**17 + 1, device=DEVICE)
    scores[::3] = 0.5
    assert_selected([scores], [70_001])


def test_one_bit_decides() -> None:
    bits = [0, 7, 8, 15, 16, 22, 23, 24, 30]
    zeros = torch.zeros(len(bits), 9, dtype=torch.int32, device=DEVICE)
    zeros[:, 4] = torch.tensor([2**bit for bit in bits], dtype=torch.int32)
    for mask in top_k_each(list(zeros.view(torch.float32)), [1] * len(bits), absolute=False):
        assert mask.nonzero().tolist() == [[4]]


@pytest.mark.parametrize("absolute", [False, True])
def test_nan_of_either_sign_is_the_largest_and_infinities_are_numbers(absolute: bool) -> None:
    counts = range(len(SPECIAL) + 1)
    assert_selected([torch.tensor(SPECIAL, device=DEVICE)] * len(counts), counts, absolute)


def test_nans_of_other_bits_are_equal() -> None:
    bits = torch.tensor([0x7F800000, 0x7F800001, 0x7FFFFFFF, -1, 0x7FC00000], dtype=torch.int32, device=DEVICE)
    assert_selected([bits.view(torch.float32)] * 4, [1, 2, 3, 4])


@pytest.mark.thorough
def test_the_last_digit_decides_among_the_few_that_share_the_others() -> None:
    one = 0x3F800000
    # Shuffled, so that no two of the few lie in one block.
    bits = one + 100 * (7 * torch.arange(300, dtype=torch.int32, device=DEVICE) % 300)
    scores = bits.view(torch.float32)
    for rank in (64, 65, 66):  # 100 * 64 is a multiple of 256
        (mask,) = top_k_each([scores], [300 - rank], absolute=False)
        assert torch.equal(mask, bits >= one + 100 * rank)


@pytest.mark.thorough
def test_a_channels_last_tensor_has_the_mask_of_the_contiguous_one() -> None:
    scores = torch.randint(3, (5, 4, 3, 2), device=DEVICE).float()
    last = scores.to(memory_format=torch.channels_last)
    plain, same = top_k_each([scores, last], [50, 50], absolute=False)
    assert torch.equal(plain, same)
    assert plain.stride() == scores.stride()
    assert same.stride() == last.stride() != scores.stride()


def test_scores_that_are_edited_or_moved_are_read_again() -> None:
    scores = torch.randn(CHUNK + 9, device=DEVICE)
    for _ in range(3):
        assert_selected([scores], [BLOCK])
        scores.neg_()
        assert_selected([scores], [BLOCK])
        scores = scores.flip(0)


def test_a_tensor_without_elements_or_dimensions_has_a_mask() -> None:
    empty, single = torch.empty(0, 3, device=DEVICE), torch.tensor(1.0, device=DEVICE)
    assert_selected([empty, single, empty], [0, 1, 0])
    assert_selected([empty], [0])


def test_scores_that_are_trained_give_masks_without_a_gradient() -> None:
    (mask,) = top_k_each([torch.ones(3, device=DEVICE, requires_grad=True)], [1], absolute=False)
    assert not mask.requires_grad


@on_a_gpu
@pytest.mark.parametrize("values", [1, 3, 1000, 2**24])
def test_large_layers_are_selected_as_a_stable_sort_does(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radix_select, "CHUNK", 2**15)
    monkeypatch.setattr(radix_select, "BLOCK", 2**12)
    scores = torch.randint(values, (2**25 + 77,), device=DEVICE).float()
    counts = [1, 2**24 + 3, 2**25]
    order = scores.argsort(descending=True, stable=True)
    for k, mask in zip(counts, top_k_each([scores] * 3, counts, absolute=False), strict=True):
        assert torch.equal(mask, torch.zeros_like(mask).scatter_(0, order[:k], True))


@on_a_gpu
def test_the_host_does_not_wait() -> None:
    scores = [torch.randn(100, device=DEVICE), torch.randn(5, 4, device=DEVICE).t()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        top_k_each(scores, [50, 3], absolute=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_without_a_compiler_masks_are_selected_by_sorting_and_one_warning_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    selection._triton_works.cache_clear()
    monkeypatch.setattr(radix_select, "top_k_each", Mock(side_effect=RuntimeError("Failed to find C compiler")))
    device = torch.device("cpu")
    with pytest.warns(RuntimeWarning, match=r"\(Failed to find C compiler\).*by sorting.* install gcc"):
        assert not selection._triton_works(device)
    assert not selection._triton_works(device)  # without another warning, which would be an error
    monkeypatch.setattr(radix_select, "top_k_each", Mock())
    selection._triton_works.cache_clear()
    assert selection._triton_works(device)
    selection._triton_works.cache_clear()
