"""The selection against a plain stable sort."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_subnets import UserError
from lightning_subnets.masking.selection import _by_sort, nested_each, top_k, top_k_each

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Half of the lists hold few values, so that ties are as common as they are among real scores.
NUMBERS = st.floats(allow_nan=False) | st.floats(-1.0, 1.0, width=16)
FEW = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 5e-324, 1.0, 1.0 + 2.0**-52, math.inf])


@st.composite
def scores_and_k(draw: st.DrawFn) -> tuple[Tensor, int]:
    values = draw(st.lists(NUMBERS, min_size=1, max_size=60) | st.lists(FEW, min_size=1, max_size=60))
    scores = torch.tensor(values, dtype=torch.float64).to(draw(st.sampled_from(DTYPES)))
    return scores, draw(st.integers(0, len(values)))


def stable_sort(scores: Tensor, k: int) -> Tensor:
    """Select by Python's own sort, which keeps the order of equal keys and knows that -0.0 equals 0.0."""
    flat = scores.flatten().tolist()
    kept = set(sorted(range(len(flat)), key=lambda index: -flat[index])[:k])
    return torch.tensor([index in kept for index in range(len(flat))]).view(scores.shape)


def check_selection(scores: Tensor, k: int) -> None:
    before, expected = scores.clone(), stable_sort(scores, k)
    for mask in (top_k(scores, k), _by_sort(scores, k)):
        assert torch.equal(mask, expected)
    assert torch.equal(top_k(scores, k, absolute=True), stable_sort(scores.abs(), k))
    assert torch.equal(scores, before)


@settings(max_examples=300)
@given(scores_and_k())
def test_the_mask_is_that_of_a_plain_stable_sort(case: tuple[Tensor, int]) -> None:
    check_selection(*case)


@pytest.mark.long
@settings(max_examples=20_000)
@given(scores_and_k())
def test_the_mask_is_that_of_a_plain_stable_sort_in_a_long_campaign(case: tuple[Tensor, int]) -> None:
    check_selection(*case)


@pytest.mark.parametrize("exponent", [20, pytest.param(24, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("values", [1000, 2**24])  # a uniform float32 draw has 24 bits
def test_large_layers_with_ties_are_selected_from_exactly(exponent: int, values: int) -> None:
    scores = torch.randint(values, (2**exponent,), generator=torch.Generator().manual_seed(0)).float()
    if torch.cuda.is_available():
        scores = scores.cuda()
    assert torch.equal(_by_sort(scores, 314_159).cpu(), top_k(scores.cpu(), 314_159))


@pytest.mark.parametrize("layout", ["channels last", "transposed", "every other", "expanded"])
def test_neither_the_mask_nor_its_ties_depend_on_the_memory_layout(layout: str) -> None:
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


@pytest.mark.parametrize("sizes", [(1, 40, 7), (1 << 18, 3, 1 << 17)])  # in one thread and in several
def test_each_of_many_tensors_has_the_mask_it_has_alone(sizes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(size, generator=generator).mul(100).round() for size in sizes]
    counts = [size // 3 for size in sizes]
    for mask, each, k in zip(top_k_each(scores, counts, absolute=True), scores, counts, strict=True):
        assert torch.equal(mask, _by_sort(each.abs(), k))


@pytest.mark.parametrize("compiling", [False, True])  # a graph selects once for each mask, as a GPU does
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nested_masks_of_one_ranking_are_those_of_a_plain_stable_sort(
    compiling: bool, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    generator = torch.Generator().manual_seed(0)
    ties = [torch.randint(-4, 5, (size, 4, 3, 5), generator=generator).float() for size in (2, 6, 3)]
    ties = [each.masked_fill(each == -4, -math.inf) for each in ties]
    scores = [each.to(memory_format=layout) for each in (torch.randn(2, 4, 3, 5, generator=generator), *ties)]
    counts = [[60, 20, 7], [60, 20, 7, 7], [360, 360, 100, 0], [0, 0, 0]]
    for levels, each, ks in zip(nested_each(scores, counts), scores, counts, strict=True):
        assert levels.dtype == torch.int8
        assert levels.stride() == each.stride()
        assert torch.equal(levels, torch.stack([stable_sort(each, k) for k in ks]).sum(0, dtype=torch.int8))


def test_a_mask_has_the_memory_layout_of_its_scores_and_no_gradient() -> None:
    scores = torch.randn(6, 4, 3, 3, requires_grad=True).to(memory_format=torch.channels_last)
    mask = top_k(scores, 50)
    assert mask.stride() == scores.stride()
    assert not mask.requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_nan_is_an_error_whatever_k(dtype: torch.dtype, k: int) -> None:
    with pytest.raises(UserError, match="a score is NaN"):
        top_k(torch.tensor([1.0, math.nan], dtype=dtype), k)


@pytest.mark.parametrize("k", [-1, 7])
def test_a_k_out_of_range_is_an_error_that_names_it_and_the_range(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} is outside 0 to 6"):
        top_k(torch.zeros(2, 3), k)
