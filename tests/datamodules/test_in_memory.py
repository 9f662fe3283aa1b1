"""Batches cut from a tensor on the device that computes, and the crops of CIFAR."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_subnets.datamodules import in_memory
from lightning_subnets.datamodules.in_memory import InMemoryDataModule, TensorLoader, crop_and_flip, random_shifts
from lightning_subnets.datamodules.loader import Batch, EpochSampler

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def random_images(*shape: int) -> Tensor:
    return torch.randint(1, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def loader(
    count: int = 10,
    batch_size: int = 4,
    padding: int = 0,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    device: str = "cpu",
    rank: int = 0,
    ranks: int = 1,
) -> TensorLoader:
    sampler = EpochSampler(torch.arange(count), size=count, shuffle=shuffle, seed=seed, rank=rank, num_replicas=ranks)
    sampler.set_epoch(epoch)
    images, labels = random_images(count, 3, 6, 6).to(device), torch.arange(count, device=device)
    return TensorLoader(images, labels, sampler, batch_size, padding)


def joined(batches: TensorLoader) -> Batch:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def slowly_cropped(image: Tensor, shift: list[int], padding: int) -> Tensor:
    top, left, mirrored = shift
    _, height, width = image.shape
    cut = functional.pad(image, (padding,) * 4)[:, top : top + height, left : left + width]
    return cut.flip(-1) if mirrored else cut


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=50)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    padding=st.integers(0, 3),
    seed=st.integers(-(2**63), 2**64),
)
def test_every_output_is_its_own_image_padded_then_cut_then_mirrored(
    device: str, shape: tuple[int, ...], padding: int, seed: int
) -> None:
    before = random_images(*shape)
    shifts = random_shifts(seed, torch.arange(len(before)), padding)
    source = before.to(device)
    after = crop_and_flip(source, shifts.to(device), padding)
    assert (after.device.type, after.dtype, after.is_contiguous()) == (device, before.dtype, True)
    expected = [slowly_cropped(image, shift, padding) for image, shift in zip(before, shifts.T.tolist(), strict=True)]
    assert torch.equal(after.cpu(), torch.stack(expected))
    after.zero_()
    assert torch.equal(source.cpu(), before)


def test_shifts_are_uniform_and_never_change() -> None:
    ways = 5**2 * 2
    counts = Counter(map(tuple, random_shifts(0, torch.arange(200 * ways), 2).T.tolist()))
    assert set(counts) == set(np.ndindex(5, 5, 2))
    assert 145 < min(counts.values()) <= max(counts.values()) < 255  # 200 of each, give or take 3.9 deviations
    keys = torch.tensor([0, 1, 2, 90 * 50000 + 49999, 2**62])
    assert random_shifts(0, keys, 4).T.tolist() == [[7, 0, 1], [0, 3, 1], [6, 4, 0], [0, 8, 0], [0, 8, 1]]
    assert random_shifts(-7, keys, 4).T.tolist() == [[4, 8, 0], [5, 6, 0], [0, 4, 1], [3, 2, 1], [3, 4, 0]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("slab", [1, 7, 4096])
@pytest.mark.parametrize("batch_size", [1, 8, 30])
def test_batches_slabs_ranks_device_and_a_resume_change_no_pixel(
    batch_size: int, slab: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, order = joined(loader(30, padding=2, batch_size=30, epoch=5))
    expected = pictures[order.argsort()]
    monkeypatch.setattr(in_memory, "SLAB", slab)
    for ranks, rank in ((1, 0), (2, 0), (2, 1)):
        batches, resumed = (loader(30, batch_size, 2, 0, 5, device=device, rank=rank, ranks=ranks) for _ in range(2))
        iterator = iter(batches)
        seen = [next(iterator)]
        resumed.load_state_dict(batches.state_dict())
        for rest in (list(iterator), list(resumed)):
            assert all(len(numbers) == batch_size for _, numbers in [*seen, *rest][:-1])
            found, where = (torch.cat(parts).cpu() for parts in zip(*seen, *rest, strict=True))
            assert torch.equal(where, order[rank::ranks])
            assert torch.equal(found, expected[where])


@pytest.mark.parametrize("padding", [0, 2])
def test_a_batch_stays_as_it_is_and_may_be_overwritten(padding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_memory, "SLAB", 8)
    expected = list(loader(30, padding=padding, shuffle=padding > 0))
    batches = loader(30, padding=padding, shuffle=padding > 0)
    held = list(batches)
    for pictures, numbers in held[1::2]:
        pictures.zero_()
        numbers.zero_()
    for (pictures, numbers), (same_pictures, same_numbers) in zip(held[::2], expected[::2], strict=True):
        assert pictures.is_contiguous()
        assert torch.equal(pictures, same_pictures)
        assert torch.equal(numbers, same_numbers)
    assert torch.equal(batches.images, random_images(30, 3, 6, 6))


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations on the meta device, except views, and the shapes copied to it from the CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.computed: list[str] = []
        self.copied: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.device.type == "meta":
            if any(isinstance(argument, Tensor) and argument.device.type == "cpu" for argument in args):
                self.copied.append(output.shape)
            elif not func.is_view:
                self.computed.append(str(func))
        return output


# The meta device has shapes and no values, so an operation that waits for a value is an error.
def test_an_epoch_is_one_copy_to_the_device_and_its_operations_depend_on_slabs_not_on_batches() -> None:
    computed = []
    for batch_size in (1, 64):
        batches = loader(2 * in_memory.SLAB, batch_size, padding=2, device="meta")
        with Operations() as operations:
            assert sum(len(pictures) for pictures, _ in batches) == 2 * in_memory.SLAB
        assert operations.copied == [(4, 2 * in_memory.SLAB)]
        computed.append(operations.computed)
    assert computed[0] == computed[1]
    assert computed[0].count("aten.gather.default") == 2


class Noise(InMemoryDataModule):
    """16 random images to train on and 9 to test."""

    mean, std, image_shape, padding = (0.5,), (0.5,), (1, 6, 6), 2

    @property
    def classes(self) -> list[str]:
        return ["noise"]

    def load(self, *, train: bool) -> Batch:
        count = 16 if train else 9
        return random_images(count, 1, 6, 6), torch.zeros(count, dtype=torch.int64)


def test_data_are_copied_to_the_trainers_device_once() -> None:
    data, copied = Noise(5, 0.0, 0), []
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=SimpleNamespace(root_device=torch.device("meta")), global_rank=0, world_size=1, overfit_batches=0
    )
    data.setup("fit")
    test, train = [5, 4], [5, 5, 6]
    for make, sizes in ((data.val_dataloader, test), (data.test_dataloader, test), (data.train_dataloader, train)):
        for _ in range(2):
            with Operations() as operations:
                batches = list(make())
            assert [len(images) for images, _ in batches] == sizes
            assert {tensor.device.type for batch in batches for tensor in batch} == {"meta"}
            copied.append([shape for shape in operations.copied if len(shape) == 4])
    # Evaluation needs the test set alone, and a copy is kept for the next run.
    assert copied == [[(9, 1, 6, 6)], [], [], [], [(16, 1, 6, 6)], []]
