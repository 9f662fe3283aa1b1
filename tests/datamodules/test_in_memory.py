"""Batches cut from a tensor, and the crops of CIFAR."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.data import _set_sampler_epoch
from torch import Tensor
from torch.nn import functional

from lightning_subnets.datamodules.in_memory import TensorLoader, crop_and_flip
from lightning_subnets.datamodules.sampler import EpochSampler, generator

Place = tuple[int, int, bool]


def places(output: Tensor, image: Tensor, padding: int) -> set[Place]:
    """Every (top, left, mirrored) at which the padded image has the output."""
    _, height, width = image.shape
    padded = functional.pad(image, (padding,) * 4)
    found = set()
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + height, left : left + width]
            found |= {
                (top, left, mirrored) for mirrored in (False, True) if torch.equal(output, flip(window, mirrored))
            }
    return found


def flip(image: Tensor, mirrored: bool) -> Tensor:
    return image.flip(-1) if mirrored else image


def random_images(*shape: int) -> Tensor:
    return torch.randint(1, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def loader(count: int = 10, batch_size: int = 4, padding: int = 0, seed: int = 0, shuffle: bool = True) -> TensorLoader:
    sampler = EpochSampler(torch.arange(count), size=count, shuffle=shuffle, seed=seed)
    return TensorLoader(random_images(count, 3, 6, 6), torch.arange(count), sampler, batch_size, padding)


def labels(batches: TensorLoader) -> list[int]:
    return torch.cat([labels for _, labels in batches]).tolist()


def images(batches: TensorLoader) -> Tensor:
    return torch.cat([images for images, _ in batches])


@settings(max_examples=50)
@given(
    count=st.integers(1, 6),
    channels=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    padding=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_every_output_is_a_window_of_its_own_padded_image_mirrored_or_not(
    count: int, channels: int, height: int, width: int, padding: int, seed: int
) -> None:
    before = random_images(count, channels, height, width)
    after = crop_and_flip(before, padding, torch.Generator().manual_seed(seed))
    assert after.shape == before.shape
    assert after.dtype == before.dtype
    assert all(places(output, image, padding) for output, image in zip(after, before, strict=True))


def test_every_offset_comes_mirrored_and_not_and_equally_often() -> None:
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 3, 3)
    outputs = crop_and_flip(image.repeat(3600, 1, 1, 1), 1, generator(0))
    counts: Counter[Place] = Counter()
    for output in outputs:
        (place,) = places(output, image, 1)
        counts[place] += 1
    assert len(counts) == 3 * 3 * 2
    assert 150 < min(counts.values()) <= max(counts.values()) < 250  # 200 of each, give or take 3.5 deviations


def test_the_crops_are_a_function_of_the_generator() -> None:
    before = random_images(20, 3, 6, 6)
    first, again, other = (crop_and_flip(before, 2, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_images_that_are_cropped_stay_as_they_are() -> None:
    before = random_images(20, 3, 6, 6)
    crop_and_flip(before, 2, generator(0)).zero_()
    assert torch.equal(before, random_images(20, 3, 6, 6))


def test_without_padding_the_images_are_left_alone() -> None:
    batches = loader()
    assert torch.equal(images(batches), batches.images[labels(batches)])


def test_the_images_of_a_padded_loader_are_crops_of_the_images_of_their_labels() -> None:
    batches = loader(padding=2)
    after, before = images(batches), batches.images[labels(batches)]
    assert all(places(output, image, 2) for output, image in zip(after, before, strict=True))
    assert not torch.equal(after, before)


@pytest.mark.parametrize(("count", "sizes"), [(10, [4, 4, 2]), (8, [4, 4]), (3, [3]), (0, [])])
def test_the_last_batch_is_smaller_and_counted(count: int, sizes: list[int]) -> None:
    batches = loader(count)
    assert [len(labels) for _, labels in batches] == sizes
    assert len(batches) == len(sizes)


def test_lightning_sets_the_epoch_and_with_it_the_order() -> None:
    batches = loader()
    orders = []
    for epoch in range(3):
        _set_sampler_epoch(batches, epoch)
        orders.append(labels(batches))
        assert labels(batches) == orders[-1]
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_to_evaluate_the_order_is_that_of_the_data_in_every_epoch() -> None:
    batches = loader(shuffle=False)
    _set_sampler_epoch(batches, 3)
    assert labels(batches) == list(range(10))


def test_an_epoch_is_augmented_the_same_whether_or_not_the_one_before_was_seen() -> None:
    continued, resumed = loader(padding=2), loader(padding=2)
    before = images(continued)
    _set_sampler_epoch(continued, 1)
    _set_sampler_epoch(resumed, 1)
    assert torch.equal(images(continued), images(resumed))
    assert not torch.equal(images(resumed), before)


def test_an_image_is_augmented_otherwise_in_another_epoch_and_from_another_seed() -> None:
    def augmented(seed: int, epoch: int) -> bytes:
        batches = loader(count=1, padding=2, seed=seed)
        _set_sampler_epoch(batches, epoch)
        return images(batches).numpy().tobytes()

    assert len({augmented(seed, epoch) for seed in range(4) for epoch in range(4)}) > 10  # of 50 windows


def test_the_global_generator_neither_matters_nor_moves() -> None:
    first = images(loader(padding=2))
    torch.rand(1)
    state = torch.get_rng_state()
    assert torch.equal(images(loader(padding=2)), first)
    assert torch.equal(torch.get_rng_state(), state)
