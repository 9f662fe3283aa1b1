"""Batches streamed from a ``.beton`` file: their form, their order and their memory."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from contents import joined, stream
from numpy.typing import NDArray
from torch import Tensor

from lightning_subnets.datamodules import ImageNet
from lightning_subnets.datamodules.ffcv import loader as ffcv_loader
from lightning_subnets.datamodules.ffcv.beton import Beton

COUNT = 21


@pytest.fixture
def table(betons: Path) -> Beton:
    """Return the training photographs, each of which is its own class, half of them raw."""
    return dataclasses.replace(Beton.open(betons / "train.beton"), labels=np.arange(COUNT))


@pytest.mark.parametrize("augment", [True, False])
def test_a_batch_is_uint8_channels_last_images_and_int64_labels(augment: bool, table: Beton) -> None:
    batches = list(stream(table, augment=augment, size=48))
    counts = [4, 4, 4, 4, 5] if augment else [4, 4, 4, 4, 4, 1]  # training joins a single image to the batch before
    assert [images.shape for images, _ in batches] == [(count, 3, 48, 48) for count in counts]
    assert [labels.shape for _, labels in batches] == [(count,) for count in counts]
    for images, labels in batches:
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.is_contiguous()


def test_batches_share_no_memory_and_may_be_overwritten(table: Beton) -> None:
    loader, content = stream(table, batch_size=2), table.path.read_bytes()
    for _ in range(2):
        held = list(loader)
        copies = [(images.clone(), labels.clone()) for images, labels in held]
        expected = list(stream(table, batch_size=2))
        for batches in (held, copies):
            for (images, labels), (images_then, labels_then) in zip(batches, expected, strict=True):
                assert torch.equal(images, images_then)
                assert torch.equal(labels, labels_then)
        for part in (0, 1):
            assert not overlapping([batch[part] for batch in held])
        for images, labels in held:
            images.zero_()
            labels.zero_()
    assert table.path.read_bytes() == content


def overlapping(tensors: list[Tensor]) -> bool:
    spans = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors)
    return any(end > start for (_, end), (start, _) in pairwise(spans))


@pytest.mark.parametrize("augment", [True, False])
def test_workers_and_batch_sizes_change_neither_pixels_nor_order(
    augment: bool, table: Beton, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = joined(stream(table, augment=augment))
    for ahead in (0, 3, 50):
        monkeypatch.setattr(ffcv_loader, "BATCHES_AHEAD", ahead)
        for num_workers in (1, 5):
            for batch_size in (1, 20, 100):
                again = stream(table, augment=augment, num_workers=num_workers, batch_size=batch_size)
                other_images, other_labels = joined(again)
                assert torch.equal(other_images, images)
                assert torch.equal(other_labels, labels)


def test_few_batches_are_decoded_ahead(table: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = stream(table)
    started = 0
    start = loader._start

    def count(keys: NDArray[np.int64]) -> object:
        nonlocal started
        started += 1
        return start(keys)

    monkeypatch.setattr(loader, "_start", count)
    assert [started for _ in loader] == [4, 5, 5, 5, 5]


def test_loaders_side_by_side_do_not_disturb_one_another(table: Beton) -> None:
    expected = joined(stream(table))[0], joined(stream(table, augment=False, size=64))[0]
    loader = stream(table, batch_size=6)
    pairs = list(zip(loader, stream(table, batch_size=6, augment=False, size=64), loader, strict=True))
    first, second, third = (torch.cat([batches[place][0] for batches in pairs]) for place in range(3))
    assert torch.equal(first, expected[0])
    assert torch.equal(second, expected[1])
    assert torch.equal(third, expected[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_batch_changes_while_its_copy_to_a_gpu_waits(betons: Path) -> None:
    data = ImageNet(str(betons), batch_size=2, image_size=64, num_workers=2)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = [images for images, _ in loader]
    assert all(images.is_pinned() for images in batches)
    expected = [images.clone() for images in batches]
    del batches  # their memory is free again
    busy = torch.randn(8192, 8192, device="cuda")
    for _ in range(50):  # about a second of work; the copies queue behind it while the loader continues
        busy = busy @ busy / 8192
    copies = [images.to("cuda", non_blocking=True) for images, _ in loader]
    assert all(torch.equal(copy.cpu(), images) for copy, images in zip(copies, expected, strict=True))
