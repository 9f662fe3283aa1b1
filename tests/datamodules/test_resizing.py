"""The size of the training images by epoch."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_subnets import UserError
from lightning_subnets.datamodules.imagenet import Resizing

SIZES, EPOCHS = st.integers(1, 2000), st.integers(0, 300)


@pytest.mark.parametrize(
    ("ramp", "sizes"),
    [
        (Resizing(128, 224, 2, 11), [128, 128, 128, 128, 160, 160, 160, 192, 192, 192, 224, 224, 224]),
        (Resizing(50, 100, 1, 5), [50, 50, 64, 64, 96, 100, 100]),
        (Resizing(128, 224, 3, 3), [128, 128, 128, 224, 224]),
    ],
)
def test_a_ramp_stops_at_multiples_of_32_between_its_ends(ramp: Resizing, sizes: list[int]) -> None:
    assert [ramp(epoch) for epoch in range(len(sizes))] == sizes


@example(ends=(1, 1), epochs=[0, 2], epoch=1)  # the nearest multiple of 32 is 0
@example(ends=(40, 50), epochs=[0, 2], epoch=1)  # the nearest multiple of 32 is 32
@given(ends=st.tuples(SIZES, SIZES), epochs=st.tuples(EPOCHS, EPOCHS).map(sorted), epoch=EPOCHS)
def test_a_size_is_an_end_or_a_multiple_of_32_near_the_line(
    ends: tuple[int, int], epochs: list[int], epoch: int
) -> None:
    size = Resizing(*ends, *epochs)(epoch)
    assert min(ends) <= size <= max(ends)
    if epoch >= epochs[1]:
        assert size == ends[1]
    elif epoch <= epochs[0]:
        assert size == ends[0]
    elif size not in ends:
        assert size % 32 == 0
        assert abs(size - (ends[0] + (ends[1] - ends[0]) * (epoch - epochs[0]) / (epochs[1] - epochs[0]))) <= 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 224), "start = 0 and end = 224 must be at least 1 pixel"),
        ((224, -32), "start = 224 and end = -32 must be"),
        ((128, 224, 4, 3), "end_epoch = 3 is before start_epoch = 4"),
    ],
)
def test_a_ramp_out_of_range_is_an_error(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Resizing(*arguments)
