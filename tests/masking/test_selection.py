"""The selection against a plain stable sort."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_subnets import UserError
from lightning_subnets.masking.selection import _by_sort, top_k, top_k_each

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

# Half of the lists are of few values, so that ties are as common as they are among real scores.
NUMBERS = st.floats(allow_nan=False) | st.floats(-1.0, 1.0, width=16)
FEW = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 5e-324, 1.0, math.inf])


@st.composite
def scores_and_k(draw: st.DrawFn) -> tuple[Tensor, int]:
    values = draw(st.lists(NUMBERS, min_size=1, max_size=60) | st.lists(FEW, min_size=1, max_size=60))
    scores = torch.tensor(values, dtype=torch.float64).to(draw(st.sampled_from(DTYPES)))
    return scores, draw(st.integers(0, len(values)))


def stable_sort(scores: Tensor, k: int) -> Tensor:
    """Python's own sort, which keeps the order of equal keys and knows that -0.0 equals 0.0."""
    flat = scores.flatten().tolist()
    kept = set(sorted(range(len(flat)), key=lambda index: -flat[index])[:k])
    return torch.tensor([index in kept for index in range(len(flat))]).view(scores.shape)


@settings(max_examples=300)
@given(scores_and_k())
def test_the_mask_is_that_of_a_plain_stable_sort(case: tuple[Tensor, int]) -> None:
    scores, k = case
    assert torch.equal(top_k(scores, k), stable_sort(scores, k))


@pytest.mark.long
@settings(max_examples=20_000)
@given(scores_and_k())
def test_the_mask_is_that_of_a_plain_stable_sort_in_a_long_campaign(case: tuple[Tensor, int]) -> None:
    scores, k = case
    assert torch.equal(top_k(scores, k), stable_sort(scores, k))
    assert torch.equal(_by_sort(scores, k), stable_sort(scores, k))


@pytest.mark.long
@pytest.mark.parametrize("exponent", [20, 22, 24, 26])
@pytest.mark.parametrize("values", [3, 1000, 2**24])
def test_large_layers_with_ties_are_selected_as_a_stable_sort_does(exponent: int, values: int) -> None:
    scores = torch.randint(values, (2**exponent,), generator=torch.Generator().manual_seed(exponent)).float()
    order = scores.argsort(descending=True, stable=True)
    for k in (1, 2**exponent // 3, 2**exponent - 1):
        mask = top_k(scores, k)
        assert int(mask.sum()) == k
        assert bool(mask[order[:k]].all())


@settings(max_examples=300)
@given(scores_and_k())
def test_exactly_k_are_selected_and_none_is_smaller_than_one_left_out(case: tuple[Tensor, int]) -> None:
    scores, k = case
    mask = top_k(scores, k)
    assert int(mask.sum()) == k
    if 0 < k < scores.numel():
        assert scores[mask].min() >= scores[~mask].max()


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=300)
@given(case=scores_and_k())
def test_the_device_path_selects_what_the_cpu_path_does(device: str, case: tuple[Tensor, int]) -> None:
    scores, k = case
    assert torch.equal(_by_sort(scores.to(device), k).cpu(), top_k(scores, k))


@pytest.mark.parametrize("device", DEVICES)
def test_the_device_path_selects_what_the_cpu_path_does_in_a_large_layer_with_ties(device: str) -> None:
    scores = torch.rand(1 << 20, generator=torch.Generator().manual_seed(0)).mul(1000).floor()
    assert torch.equal(_by_sort(scores.to(device), 314_159).cpu(), top_k(scores, 314_159))


@settings(max_examples=300)
@given(scores_and_k())
def test_absolute_scores_are_ordered_by_their_distance_from_zero(case: tuple[Tensor, int]) -> None:
    scores, k = case
    assert torch.equal(top_k(scores, k, absolute=True), stable_sort(scores.abs(), k))


@pytest.mark.parametrize("layout", ["channels last", "transposed", "every other", "expanded"])
def test_neither_the_mask_nor_its_ties_depend_on_how_the_scores_lie_in_memory(layout: str) -> None:
    scores = torch.randint(-4, 5, (6, 4, 3, 5), generator=torch.Generator().manual_seed(0)).float()
    laid_out = {
        "channels last": scores.to(memory_format=torch.channels_last),
        "transposed": scores.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        "every other": scores.repeat_interleave(2, dim=3)[..., ::2],
        "expanded": scores[:, :1].expand(6, 4, 3, 5),
    }[layout]
    scores = laid_out.contiguous()
    assert laid_out.stride() != scores.stride()
    for k in range(0, scores.numel() + 1, 7):
        assert torch.equal(top_k(laid_out, k), stable_sort(scores, k))
        assert torch.equal(top_k(laid_out, k, absolute=True), stable_sort(scores.abs(), k))


def test_a_mask_lies_in_memory_as_its_scores_do() -> None:
    scores = torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last)
    assert top_k(scores, 50).stride() == scores.stride()


@pytest.mark.parametrize("sizes", [(1, 40, 7), (1 << 18, 3, 1 << 17)])  # in one thread and in several
def test_many_tensors_are_selected_from_as_each_alone(sizes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(size, generator=generator).mul(100).round() for size in sizes]
    counts = [size // 3 for size in sizes]
    for mask, each, k in zip(top_k_each(scores, counts, absolute=True), scores, counts, strict=True):
        assert torch.equal(mask, _by_sort(each.abs(), k))


def test_scores_are_left_as_they_are() -> None:
    scores = torch.randn(1 << 19, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    top_k(scores, 1000, absolute=True)
    top_k(scores, 1000)
    assert torch.equal(scores, before)


def test_of_equal_scores_the_lowest_index_is_kept() -> None:
    scores = torch.tensor([1.0, 3.0, 2.0, 2.0, 3.0, 2.0])
    assert top_k(scores, 3).tolist() == [False, True, True, False, True, False]
    assert top_k(scores, 4).tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize("value", [0.0, -1.5, math.inf, -math.inf])
def test_of_scores_all_equal_the_first_are_kept(value: float) -> None:
    assert top_k(torch.full((7,), value), 3).tolist() == [True] * 3 + [False] * 4


def test_infinities_are_ordered_as_numbers() -> None:
    scores = torch.tensor([-math.inf, 0.0, math.inf, -1.0, math.inf])
    assert top_k(scores, 2).tolist() == [False, False, True, False, True]
    assert top_k(scores, 4).tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("values", [[-0.0, 0.0, -0.0, 0.0], [0.0, -0.0, 0.0, -0.0]])
def test_negative_zero_equals_zero(values: list[float]) -> None:
    assert top_k(torch.tensor(values), 2).tolist() == [True, True, False, False]
    assert _by_sort(torch.tensor(values), 2).tolist() == [True, True, False, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_nan_is_an_error_whatever_k(dtype: torch.dtype, k: int) -> None:
    with pytest.raises(UserError, match="a score is NaN") as caught:
        top_k(torch.tensor([1.0, math.nan], dtype=dtype), k)
    assert isinstance(caught.value, ValueError)


def test_one_score_is_kept_or_not() -> None:
    assert top_k(torch.tensor([0.5]), 1).tolist() == [True]
    assert top_k(torch.tensor([0.5]), 0).tolist() == [False]


def test_k_may_be_nothing_and_everything() -> None:
    scores = torch.arange(6.0).view(2, 3)
    assert torch.equal(top_k(scores, 0), torch.zeros(2, 3, dtype=torch.bool))
    assert torch.equal(top_k(scores, 6), torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize("k", [-1, 7])
def test_a_k_out_of_range_is_an_error_that_names_it_and_the_range(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} is outside 0 to 6"):
        top_k(torch.zeros(2, 3), k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_floating_dtype_is_selected_from_as_it_is(dtype: torch.dtype) -> None:
    scores = torch.randn(4, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    assert torch.equal(top_k(scores, 600), stable_sort(scores, 600))


def test_float64_scores_that_are_one_in_float32_are_told_apart() -> None:
    scores = torch.tensor([1.0, 1.0 + 2.0**-52], dtype=torch.float64)
    assert top_k(scores, 1).tolist() == [False, True]


def test_the_lowest_index_is_that_of_the_logical_order_in_any_memory_layout() -> None:
    scores = torch.randint(3, (4, 6, 5, 5), generator=torch.Generator().manual_seed(0)).float()
    expected = stable_sort(scores, 250)
    transposed = scores.transpose(1, 3).contiguous().transpose(1, 3)
    strided = scores.repeat_interleave(2, dim=0)[::2]
    for same in (scores.to(memory_format=torch.channels_last), transposed, strided):
        assert not same.is_contiguous()
        assert torch.equal(top_k(same, 250), expected)


def test_the_scores_are_left_as_they_are() -> None:
    scores = torch.randn(1000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = scores.detach().clone()
    mask = top_k(scores, 300)
    assert torch.equal(scores, before)
    assert not mask.requires_grad


def test_sixteen_million_scores_are_selected_from_exactly() -> None:
    n, k = 1 << 24, 5_033_165
    # Uniform float32 draws have 24 bits, so that this many collide with one another.
    scores = torch.rand(n, generator=torch.Generator().manual_seed(0))
    mask = top_k(scores, k)
    threshold = scores[mask].min()
    ties = mask[scores == threshold]
    assert int(mask.sum()) == k
    assert scores[~mask].max() <= threshold
    assert ties.tolist() == sorted(ties.tolist(), reverse=True)
