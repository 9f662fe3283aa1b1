"""The size of the training images by epoch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_subnets import UserError
from lightning_subnets.datamodules.resizing import Resizing

SIZES, EPOCHS = st.integers(1, 2000), st.integers(0, 300)
TWO_EPOCHS = st.tuples(EPOCHS, EPOCHS).map(sorted)


def test_the_size_is_that_of_ffcvs_own_recipe() -> None:
    ramp = Resizing(160, 192, start_epoch=65, end_epoch=76)
    for epoch in range(90):
        # As in get_resolution of FFCV's train_imagenet.py.
        line = np.interp([epoch], [65, 76], [160, 192])
        assert ramp(epoch) == int(np.round(line[0] / 32)) * 32


def test_a_ramp_stops_at_every_multiple_of_32_between_its_ends() -> None:
    ramp = Resizing(128, 224, start_epoch=2, end_epoch=11)
    between = [128, 160, 160, 160, 192, 192, 192, 224]
    assert [ramp(epoch) for epoch in range(14)] == [128, 128, 128, *between, 224, 224, 224]


def test_a_ramp_may_go_down() -> None:
    assert [Resizing(224, 128, 0, 3)(epoch) for epoch in range(5)] == [224, 192, 160, 128, 128]


def test_the_ends_are_sizes_of_any_number_of_pixels() -> None:
    ramp = Resizing(50, 100, 1, 5)
    assert [ramp(epoch) for epoch in (0, 1, 5, 6)] == [50, 50, 100, 100]
    assert [ramp(epoch) for epoch in (2, 3, 4)] == [64, 64, 96]


def test_without_epochs_the_size_is_the_end_from_the_first_epoch() -> None:
    assert {Resizing(128, 224)(epoch) for epoch in range(5)} == {224}


def test_a_ramp_of_no_length_is_a_step() -> None:
    assert [Resizing(128, 224, 3, 3)(epoch) for epoch in range(6)] == [128, 128, 128, 224, 224, 224]


@given(size=SIZES, epoch=EPOCHS)
def test_one_size_stays(size: int, epoch: int) -> None:
    assert Resizing(size, size)(epoch) == size


@example(ends=(1, 1), epochs=[0, 2], epoch=1)  # the nearest multiple of 32 is 0
@example(ends=(40, 50), epochs=[0, 2], epoch=1)  # ... is 32
@given(ends=st.tuples(SIZES, SIZES), epochs=TWO_EPOCHS, epoch=EPOCHS)
def test_before_the_ramp_is_its_start_after_it_its_end_and_never_outside_them(
    ends: tuple[int, int], epochs: list[int], epoch: int
) -> None:
    size = Resizing(*ends, *epochs)(epoch)
    assert min(ends) <= size <= max(ends)
    if epoch >= epochs[1]:
        assert size == ends[1]
    elif epoch <= epochs[0]:
        assert size == ends[0]


@given(ends=st.tuples(st.integers(1, 60), st.integers(1, 60)), epochs=TWO_EPOCHS, epoch=EPOCHS)
def test_between_its_ends_a_ramp_is_a_multiple_of_32_within_16_of_the_line(
    ends: tuple[int, int], epochs: list[int], epoch: int
) -> None:
    start, end = 32 * ends[0], 32 * ends[1]
    size = Resizing(start, end, *epochs)(epoch)
    assert size % 32 == 0
    if epochs[0] < epoch < epochs[1]:
        assert abs(size - (start + (end - start) * (epoch - epochs[0]) / (epochs[1] - epochs[0]))) <= 16


@pytest.mark.parametrize(("start", "end"), [(0, 224), (224, 0), (-32, 224)])
def test_a_size_below_one_pixel_is_an_error_that_names_it(start: int, end: int) -> None:
    with pytest.raises(UserError, match=f"images of {min(start, end)} pixels"):
        Resizing(start, end)


def test_a_ramp_that_ends_before_it_starts_is_an_error_that_names_both() -> None:
    with pytest.raises(UserError, match=r"end_epoch = 3 .* start_epoch = 4"):
        Resizing(128, 224, 4, 3)


def test_a_ramp_cannot_be_changed_and_equals_its_like() -> None:
    ramp = Resizing(128, 224, 1, 2)
    assert ramp == Resizing(128, 224, 1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ramp.start = 5  # type: ignore[misc]
