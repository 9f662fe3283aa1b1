"""Batches streamed from a ``.beton`` file: what they are, in which order, and whose memory they are in."""

from __future__ import annotations

import dataclasses
import random
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_subnets.datamodules import ImageNet
from lightning_subnets.datamodules.ffcv import loader as ffcv_loader
from lightning_subnets.datamodules.ffcv.beton import Beton
from lightning_subnets.datamodules.ffcv.loader import FFCVLoader
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.datamodules.sampler import EpochSampler

COUNT = 21


@pytest.fixture
def table(betons: Path) -> Beton:
    """The training photographs, each of which is its own class, half of them raw."""
    return dataclasses.replace(Beton.open(betons / "train.beton"), labels=np.arange(COUNT))


def stream(
    table: Beton,
    *,
    batch_size: int = 4,
    size: int = 32,
    augment: bool = True,
    num_workers: int = 2,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> FFCVLoader:
    sampler = EpochSampler(torch.arange(COUNT), size=COUNT, shuffle=augment, seed=seed, rank=rank, num_replicas=ranks)
    sampler.set_epoch(epoch)
    return FFCVLoader(table, sampler, batch_size, lambda _: size, augment, num_workers)


def joined(loader: FFCVLoader) -> Batch:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def by_sample(loader: FFCVLoader) -> dict[int, bytes]:
    images, labels = joined(loader)
    pixels = [image.numpy().tobytes() for image in images]
    assert len(set(labels.tolist())) == len(labels)
    return dict(zip(labels.tolist(), pixels, strict=True))


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


def test_a_batch_of_one_image_has_all_its_dimensions(table: Beton) -> None:
    batches = list(stream(table, batch_size=1))
    assert {images.shape for images, _ in batches} == {(1, 3, 32, 32)}
    assert {labels.shape for _, labels in batches} == {(1,)}
    assert {images.stride() for images, _ in batches} == {(32 * 32 * 3, 1, 32 * 3, 3)}


def test_no_batch_shares_memory_with_another_and_none_that_is_held_ever_changes(table: Beton) -> None:
    loader = stream(table, batch_size=2)
    held: list[Batch] = []
    copies: list[Batch] = []
    for epoch in range(5):
        loader.sampler.set_epoch(epoch)
        for images, labels in loader:
            held.append((images, labels))
            copies.append((images.clone(), labels.clone()))
    assert len(held) == 50
    for (images, labels), (images_then, labels_then) in zip(held, copies, strict=True):
        assert torch.equal(images, images_then)
        assert torch.equal(labels, labels_then)
    for part in (0, 1):
        assert not overlapping([batch[part] for batch in held])


def overlapping(tensors: list[Tensor]) -> bool:
    spans = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors)
    return any(end > start for (_, end), (start, _) in pairwise(spans))


def test_who_writes_into_a_batch_writes_into_nothing_else(table: Beton) -> None:
    expected = [(images.clone(), labels.clone()) for images, labels in stream(table)]
    content = table.path.read_bytes()
    loader = stream(table)
    for images, labels in loader:
        images.zero_()
        labels.zero_()
    assert table.path.read_bytes() == content
    for (images, labels), (images_then, labels_then) in zip(loader, expected, strict=True):
        assert torch.equal(images, images_then)
        assert torch.equal(labels, labels_then)


@pytest.mark.parametrize("augment", [True, False])
def test_neither_workers_nor_batches_change_a_pixel_or_the_order(
    augment: bool, table: Beton, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = joined(stream(table, augment=augment))
    for ahead in (0, 1, 3, 50):
        monkeypatch.setattr(ffcv_loader, "BATCHES_AHEAD", ahead)
        for num_workers in (1, 2, 5):
            for batch_size in (1, 4, 20, 100):
                again = stream(table, augment=augment, num_workers=num_workers, batch_size=batch_size)
                other_images, other_labels = joined(again)
                assert torch.equal(other_images, images)
                assert torch.equal(other_labels, labels)


def test_no_more_batches_are_under_way_than_are_wanted_ahead(table: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = stream(table)
    begun = 0
    begin = loader._begin

    def count(keys: NDArray[np.int64]) -> object:
        nonlocal begun
        begun += 1
        return begin(keys)

    monkeypatch.setattr(loader, "_begin", count)
    assert [begun for _ in loader] == [4, 5, 5, 5, 5]


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_a_batch_is_shared_evenly_among_threads_that_are_those_of_every_loader(num_workers: int, table: Beton) -> None:
    shares: list[int] = []
    threads: set[threading.Thread] = set()
    for _ in range(5):
        loader = stream(table, augment=False, batch_size=10, num_workers=num_workers)
        decode = loader._decode

        def watched(images: NDArray[np.uint8], *rest: Any, decode: Any = decode) -> Any:
            shares.append(len(images))
            threads.add(threading.current_thread())
            return decode(images, *rest)

        loader._decode = watched
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            assert len(list(loader)) == 3
    assert sorted(shares) == [1] * 15 + [10 // num_workers] * 30 * num_workers
    assert 1 <= len(threads) <= num_workers
    assert threading.current_thread() not in threads


def test_training_is_in_another_order_each_epoch_and_evaluation_in_that_of_the_file(table: Beton) -> None:
    orders = {tuple(joined(stream(table, epoch=epoch, seed=seed))[1].tolist()) for epoch in (0, 1) for seed in (0, 1)}
    assert len(orders) == 4
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(COUNT))}
    assert joined(stream(table, augment=False, epoch=3))[1].tolist() == list(range(COUNT))


def test_the_labels_are_those_of_the_images(betons: Path, table: Beton) -> None:
    named = Beton.open(betons / "train.beton")
    assert named.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    images, labels = joined(stream(named))
    numbered_images, numbers = joined(stream(table))
    assert torch.equal(images, numbered_images)
    assert labels.tolist() == named.labels[numbers.numpy()].tolist()


def test_an_epoch_and_a_seed_have_crops_of_their_own_and_the_same_ones_again(table: Beton) -> None:
    seen = {(epoch, seed): by_sample(stream(table, epoch=epoch, seed=seed)) for epoch in (0, 1) for seed in (0, 1)}
    assert len({pixels for crops in seen.values() for pixels in crops.values()}) == 4 * COUNT
    for (epoch, seed), crops in seen.items():
        assert by_sample(stream(table, epoch=epoch, seed=seed)) == crops


def test_evaluation_is_the_same_in_every_epoch_and_of_every_seed(table: Beton) -> None:
    expected = by_sample(stream(table, augment=False))
    assert by_sample(stream(table, augment=False, epoch=1, seed=5)) == expected


@pytest.mark.parametrize("ranks", [2, 3, 4, 30])
def test_ranks_evaluate_every_image_exactly_once(ranks: int, table: Beton) -> None:
    alone = by_sample(stream(table, augment=False))
    parts = [stream(table, augment=False, rank=rank, ranks=ranks) for rank in range(ranks)]
    seen = [by_sample(part) if len(part) else {} for part in parts]
    assert sum(len(part) for part in seen) == COUNT
    assert {sample: pixels for part in seen for sample, pixels in part.items()} == alone
    assert max(len(part) for part in seen) - min(len(part) for part in seen) <= 1


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_train_on_crops_of_one_rank_and_never_on_the_same(ranks: int, table: Beton) -> None:
    alone = by_sample(stream(table, epoch=2))
    seen = [by_sample(stream(table, epoch=2, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert [len(part) for part in seen] == [COUNT // ranks] * ranks
    together = {sample: pixels for part in seen for sample, pixels in part.items()}
    assert len(together) == COUNT // ranks * ranks
    assert together.items() <= alone.items()


def test_loaders_side_by_side_do_not_disturb_one_another(table: Beton) -> None:
    expected = joined(stream(table))[0], joined(stream(table, augment=False, size=64))[0]
    loader = stream(table, batch_size=6)
    pairs = list(zip(loader, stream(table, batch_size=6, augment=False, size=64), loader, strict=True))
    first, second, third = (torch.cat([batches[place][0] for batches in pairs]) for place in range(3))
    assert torch.equal(first, expected[0])
    assert torch.equal(second, expected[1])
    assert torch.equal(third, expected[0])


def test_after_the_end_there_is_no_batch_again_and_again(table: Beton) -> None:
    iterator = iter(stream(table))
    assert len(list(iterator)) == 5
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(iterator)


def test_the_size_of_the_images_is_that_of_the_epoch(table: Beton) -> None:
    loader = stream(table)
    loader.size = lambda epoch: 16 * (epoch + 1)
    for epoch in (0, 1, 2, 0):
        loader.sampler.set_epoch(epoch)
        assert {images.shape[2:] for images, _ in loader} == {(16 * (epoch + 1),) * 2}


def test_loading_leaves_the_global_generators_and_torchs_threads_as_they_are(table: Beton) -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state()), torch.get_num_threads()
    joined(stream(table))
    joined(stream(table, augment=False))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state()), torch.get_num_threads()) == before[1:]


def test_without_a_trainer_a_data_module_is_a_plain_iterable(betons: Path) -> None:
    data = ImageNet(str(betons), batch_size=8, image_size=64)
    data.setup("fit")
    assert data.classes == Beton.open(betons / "train.beton").classes
    sizes = [(data.normalize(images).shape, labels.shape) for images, labels in data.train_dataloader()]
    assert sizes == [((count, 3, 64, 64), (count,)) for count in (8, 8, 5)]
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 12
