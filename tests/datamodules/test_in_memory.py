"""Batches cut from a tensor where a Trainer computes, and the crops of CIFAR."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_subnets.datamodules import CIFAR10, in_memory
from lightning_subnets.datamodules.in_memory import InMemoryDataModule, TensorLoader, crop_and_flip, random_shifts
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.datamodules.sampler import EpochSampler

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
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


def loader(
    count: int = 10,
    batch_size: int = 4,
    padding: int = 0,
    seed: int = 0,
    shuffle: bool = True,
    device: str = "cpu",
    rank: int = 0,
    ranks: int = 1,
) -> TensorLoader:
    sampler = EpochSampler(torch.arange(count), size=count, shuffle=shuffle, seed=seed, rank=rank, num_replicas=ranks)
    images, labels = random_images(count, 3, 6, 6).to(device), torch.arange(count, device=device)
    return TensorLoader(images, labels, sampler, batch_size, padding)


def labels(batches: TensorLoader) -> list[int]:
    return torch.cat([labels for _, labels in batches]).tolist()


def images(batches: TensorLoader) -> Tensor:
    return torch.cat([images for images, _ in batches])


def slowly_cropped(image: Tensor, shift: tuple[int, int, int], padding: int) -> Tensor:
    top, left, mirrored = shift
    _, height, width = image.shape
    padded = functional.pad(image, (padding,) * 4)
    return flip(padded[:, top : top + height, left : left + width], bool(mirrored))


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=50)
@given(
    count=st.integers(1, 6),
    channels=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    padding=st.integers(0, 3),
    seed=st.integers(-(2**63), 2**64),
)
def test_every_output_is_its_own_image_padded_then_cut_then_mirrored(
    device: str, count: int, channels: int, height: int, width: int, padding: int, seed: int
) -> None:
    before = random_images(count, channels, height, width)
    shifts = random_shifts(seed, torch.arange(count), padding)
    after = crop_and_flip(before.to(device), shifts.to(device), padding)
    assert after.device.type == device
    assert after.dtype == before.dtype
    assert after.is_contiguous()
    expected = [slowly_cropped(image, shift, padding) for image, shift in zip(before, shifts.T.tolist(), strict=True)]
    assert torch.equal(after.cpu(), torch.stack(expected))


@pytest.mark.parametrize("padding", [1, 4])
def test_every_offset_comes_mirrored_and_not_and_equally_often(padding: int) -> None:
    ways = (2 * padding + 1) ** 2 * 2
    counts = Counter(map(tuple, random_shifts(0, torch.arange(200 * ways), padding).T.tolist()))
    assert set(counts) == set(np.ndindex(2 * padding + 1, 2 * padding + 1, 2))
    assert 145 < min(counts.values()) <= max(counts.values()) < 255  # 200 of each, give or take 3.9 deviations


def test_a_shift_never_changes() -> None:
    keys = torch.tensor([0, 1, 2, 90 * 50000 + 49999, 2**62])
    assert random_shifts(0, keys, 4).T.tolist() == [[7, 0, 1], [0, 3, 1], [6, 4, 0], [0, 8, 0], [0, 8, 1]]
    assert random_shifts(-7, keys, 4).T.tolist() == [[4, 8, 0], [5, 6, 0], [0, 4, 1], [3, 2, 1], [3, 4, 0]]


def test_neighbouring_keys_epochs_and_seeds_have_nothing_to_do_with_one_another() -> None:
    many = 20000
    first = random_shifts(0, torch.arange(many), 4)
    others = [random_shifts(0, torch.arange(many) + step, 4) for step in (1, 50000, 50000 * 2**31)]
    others += [random_shifts(seed, torch.arange(many), 4) for seed in (1, -1, 2**32)]
    together = np.corrcoef(torch.cat([first, *others]))
    assert abs(together - np.eye(len(together))).max() < 4.5 / many**0.5


def test_the_images_that_are_cropped_stay_as_they_are() -> None:
    before = random_images(20, 3, 6, 6)
    for padding in (0, 2):
        crop_and_flip(before, random_shifts(0, torch.arange(20), padding), padding).zero_()
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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("slab", [1, 7, 8, 4096])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 30])
def test_an_image_of_an_epoch_is_the_same_whatever_the_batches_slabs_ranks_and_device_and_wherever_it_goes_on(
    batch_size: int, slab: int, ranks: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = loader(30, padding=2, batch_size=30)
    _set_sampler_epoch(alone, 5)
    ((pictures, order),) = alone
    expected = pictures[order.argsort()]
    monkeypatch.setattr(in_memory, "SLAB", slab)
    for rank in range(ranks):
        batches, resumed = (loader(30, batch_size, 2, device=device, rank=rank, ranks=ranks) for _ in range(2))
        _set_sampler_epoch(batches, 5)
        _set_sampler_epoch(resumed, 5)
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
    held = []
    for number, (pictures, numbers) in enumerate(batches):
        assert torch.equal(pictures, expected[number][0])
        assert torch.equal(numbers, expected[number][1])
        assert pictures.is_contiguous()
        if number % 2:
            pictures.zero_()
            numbers.zero_()
        else:
            held.append((number, pictures, numbers))
    for number, pictures, numbers in held:
        assert torch.equal(pictures, expected[number][0])
        assert torch.equal(numbers, expected[number][1])
    assert torch.equal(batches.images, random_images(30, 3, 6, 6))


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What is computed on the meta device, views apart, and the shapes of what is copied to it from the CPU."""

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


# The meta device has shapes and no values, so that whatever waits for a value there is an error.
def test_an_epoch_is_one_copy_to_the_device_and_its_work_that_of_its_slabs_not_of_its_batches() -> None:
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

    def __init__(self) -> None:
        super().__init__(batch_size=5, validation_fraction=0.0, seed=0)

    def load(self, *, train: bool) -> Batch:
        count = 16 if train else 9
        return random_images(count, 1, 6, 6), torch.zeros(count, dtype=torch.int64)


class Recorder(LightningModule):
    """Keeps of each batch the stage, the device, and the number of images, which is all it does."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seen: list[tuple[str, str, int]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        assert images.dtype == torch.float32
        assert images.shape == (len(labels), 1, 6, 6)
        assert images.device == labels.device
        self.seen.append(("train" if self.training else "test", images.device.type, len(images)))

    validation_step = training_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.zeros(1)])


class MetaAccelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        assert device.type == "meta"


class MetaStrategy(SingleDeviceStrategy):
    def __init__(self) -> None:
        super().__init__("meta", MetaAccelerator())

    def reduce(self, *_: Any, **__: Any) -> Tensor:
        return torch.tensor(1)  # Lightning asks whether all ranks have a batch


def trainer(device: str) -> Trainer:
    return Trainer(
        strategy=MetaStrategy() if device == "meta" else SingleDeviceStrategy(device, CPUAccelerator()),
        max_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_a_trainer_computes_on_its_device_on_what_was_put_there_once() -> None:
    data, module, copied = Noise(), Recorder(), []
    for run in (trainer("meta").validate, trainer("meta").validate, trainer("meta").fit, trainer("meta").fit):
        with Operations() as operations:
            run(module, datamodule=data)
        copied.append([shape for shape in operations.copied if len(shape) == 4])
    # To validate takes the test set alone; and what has been copied is there for the next.
    assert copied == [[(9, 1, 6, 6)], [], [(16, 1, 6, 6)], []]
    tested = [("test", "meta", 5), ("test", "meta", 4)]
    trained = [("train", "meta", 5)] * 2 + [("train", "meta", 6)]
    assert module.seen == tested * 2 + (trained + tested) * 2


def test_another_device_gets_a_copy_of_its_own_and_the_data_stay_on_the_cpu() -> None:
    data = Noise()
    data.setup("fit")
    for train in (True, False):
        whole, held = data.train_set if train else data.test_set, []
        for device in ("cpu", "meta", "cpu", "meta"):
            data.trainer = trainer(device)
            batches = data.batches(None, train=train, augment=train)
            assert batches.images.device.type == batches.labels.device.type == device
            held.append(batches.images)
        assert held[0] is held[2] is whole[0]
        assert held[1] is held[3]
        assert [tensor.device.type for tensor in whole] == ["cpu", "cpu"]


def test_without_a_trainer_the_batches_are_on_the_cpu(cifar_folder: Any) -> None:
    data = CIFAR10(str(cifar_folder))
    data.setup("fit")
    ((pictures, numbers),) = data.train_dataloader()
    assert (pictures.device.type, numbers.device.type) == ("cpu", "cpu")
    assert pictures.dtype == torch.uint8
