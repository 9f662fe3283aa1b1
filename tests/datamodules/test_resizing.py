"""The size of the training images by epoch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from small_runs import quiet_trainer

from lightning_subnets import UserError
from lightning_subnets.datamodules.image_folder import ImageFolder, Resizing


@pytest.mark.parametrize(
    ("ramp", "sizes"),
    [
        (Resizing(128, 224, 2, 11), [128, 128, 128, 128, 160, 160, 160, 192, 192, 192, 224, 224, 224]),
        (Resizing(50, 100, 1, 5), [50, 50, 64, 64, 96, 100, 100]),
        (Resizing(224, 128, 0, 4), [224, 192, 192, 160, 128]),
        (Resizing(128, 224, 3, 3), [128, 128, 128, 224, 224]),
        (Resizing(1, 1, 0, 2), [1, 1, 1]),  # the nearest multiple of 32 is 0
        (Resizing(40, 50, 0, 2), [40, 40, 50]),  # the nearest multiple of 32 is 32
    ],
)
def test_a_ramp_stops_at_multiples_of_32_between_its_ends(ramp: Resizing, sizes: list[int]) -> None:
    assert [ramp(epoch) for epoch in range(len(sizes))] == sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 224), "start = 0 and end = 224 must be at least 1 pixel"),
        ((224, -32), "start = 224 and end = -32 must be"),
        ((128, 224, 4, 3), "end_epoch = 3 is before start_epoch = 4"),
        ((128, 224), "end_epoch = 0, so every epoch would have 224 pixels and none 128: set start_epoch and end_epoch"),
    ],
)
def test_a_ramp_out_of_range_is_an_error(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Resizing(*arguments)


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"max_epochs": 2}, True),
        ({"max_epochs": 3}, False),
        ({"max_epochs": -1}, False),
        ({"fast_dev_run": True}, False),
        ({"max_epochs": 2, "overfit_batches": 1}, False),  # which trains on the size of evaluation
    ],
)
def test_a_run_that_ends_before_its_ramp_warns(options: dict[str, Any], warned: bool, photographs: Path) -> None:
    data = ImageFolder(str(photographs), "folder", image_size=64, train_size=Resizing(32, 64, 0, 2), num_workers=0)
    data.setup("fit")
    data.trainer = quiet_trainer(**options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.train_dataloader()
    expected = (
        "training images have 64 pixels from epoch 2 on, and the run ends before it, after 2 epochs: set "
        "--data.train_size.start_epoch and end_epoch for its length"
    )
    assert [str(warning.message) for warning in caught] == [expected] * warned
