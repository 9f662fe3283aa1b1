"""Every loader starts an epoch with its first batch, and resumes in the middle of one."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, strategies
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_subnets import UserError
from lightning_subnets.datamodules import Digits, ImageNet
from lightning_subnets.datamodules.ffcv.beton import Beton
from lightning_subnets.datamodules.ffcv.loader import FFCVLoader
from lightning_subnets.datamodules.folder_loader import FolderLoader
from lightning_subnets.datamodules.image_folder import Resizing
from lightning_subnets.datamodules.in_memory import TensorLoader
from lightning_subnets.datamodules.loader import Batch, EpochLoader, EpochSampler

COUNT, BATCH_SIZE = 21, 4
LoaderOf = Callable[..., EpochLoader]


@pytest.fixture(params=["tensor", "folder", "ffcv"])
def loader_of(request: pytest.FixtureRequest, photographs: Path) -> LoaderOf:
    """Return a function that makes a loader of 21 images, each of which is its own class."""

    def make(shuffle: bool = True, rank: int = 0, ranks: int = 1, epoch: int = 0) -> EpochLoader:
        sampler = EpochSampler(torch.arange(COUNT), size=COUNT, shuffle=shuffle, seed=0, rank=rank, num_replicas=ranks)
        sampler.set_epoch(epoch)
        size = Resizing(32, 32)
        if request.param == "tensor":
            images = torch.arange(COUNT * 3 * 6 * 6).remainder(251).to(torch.uint8).view(COUNT, 3, 6, 6)
            return TensorLoader(images, torch.arange(COUNT), sampler, BATCH_SIZE, padding=2 if shuffle else 0)
        if request.param == "folder":
            files = [(str(path), label) for label, path in enumerate(sorted((photographs / "train").rglob("*.jpg")))]
            return FolderLoader(files, sampler, BATCH_SIZE, size, augment=shuffle, num_workers=0)
        beton = Beton.open(request.getfixturevalue("betons") / "train.beton")
        numbered = dataclasses.replace(beton, labels=torch.arange(COUNT).numpy())
        return FFCVLoader(numbered, sampler, BATCH_SIZE, size, augment=shuffle, num_workers=2)

    return make


def samples(batches: list[Batch]) -> list[int]:
    return [label for _, labels in batches for label in labels.tolist()]


def assert_same(batches: list[Batch], expected: list[Batch]) -> None:
    for (images, labels), (expected_images, expected_labels) in zip(batches, expected, strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)


def stopped_after(loader: EpochLoader, batches: int) -> dict[str, int]:
    """Return a loader's state after it has handed out that many batches."""
    iterator = iter(loader)
    for _ in range(batches):
        next(iterator)
    return dict(loader.state_dict())


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_loader_resumes_where_another_stopped_with_exactly_the_batches_that_were_left(
    ranks: int, shuffle: bool, loader_of: LoaderOf
) -> None:
    for rank in range(ranks):
        place = {"shuffle": shuffle, "rank": rank, "ranks": ranks, "epoch": 3}
        whole = list(loader_of(**place))
        assert len(whole) == len(loader_of(**place)) > 1
        for count in range(len(whole) + 1):
            state = stopped_after(loader_of(**place), count)
            resumed = loader_of(**place)
            resumed.load_state_dict(state)
            assert_same(list(resumed), whole[count:])
            if count < len(whole):
                assert resumed.state_dict() == stopped_after(loader_of(**place), len(whole))
            # The next epoch is whole, and a state of another epoch has no effect.
            resumed.sampler.set_epoch(4)
            for _ in range(2):
                assert_same(list(resumed), list(loader_of(**{**place, "epoch": 4})))
                resumed.load_state_dict(state)


class Keys(EpochLoader):
    """A loader whose batches are its samples' keys."""

    def read_batches(self, keys: list[Tensor]) -> Generator[Batch]:
        yield from zip(keys, keys, strict=True)


@example(count=133, size=3, ranks=[1, 5], share=0.9375)  # 5 ranks cannot share 133 samples, nor the 7 that are left
@given(
    count=strategies.integers(1, 200),
    size=strategies.integers(1, 12),
    ranks=strategies.lists(strategies.integers(1, 5), min_size=2, max_size=4),
    share=strategies.floats(0, 1),
)
def test_however_often_the_number_of_ranks_changes_no_sample_is_lost_or_repeated(
    count: int, size: int, ranks: list[int], share: float
) -> None:
    state, seen = {"epoch": 0, "samples": 0}, list[int]()
    for place, now in enumerate(ranks, start=1):
        loaders = []
        for rank in range(now):
            order = EpochSampler(torch.arange(count), size=count, shuffle=True, seed=0, rank=rank, num_replicas=now)
            loaders.append(Keys(order, size))
            loaders[-1].load_state_dict(state)
        # Every rank has the same number of batches, otherwise ranks would wait for each other forever.
        (left,) = {loader.remaining(count) for loader in loaders}
        steps = left if place == len(ranks) else int(share * left)
        iterators = [iter(loader) for loader in loaders]
        for _ in range(steps):
            for keys, _ in map(next, iterators):
                assert len(keys) > 0
                seen += keys.tolist()
            (state,) = (dict(fields) for fields in {tuple(loader.state_dict().items()) for loader in loaders})
        assert all((next(iterator, None) is None) == (steps == left) for iterator in iterators)
    assert len(set(seen)) == len(seen) > count - max(ranks)


@pytest.mark.parametrize("state", [{"epoch": 0}, {"epoch": 0, "samples": -1}, {"epoch": 0, "samples": 1.5}, {}])
def test_a_damaged_state_is_an_error(state: dict[str, Any]) -> None:
    with pytest.raises(
        UserError,
        match="damaged, or from a run with another kind of loader: its position in the data",
    ):
        Keys(EpochSampler(torch.arange(5), size=5, shuffle=True, seed=0), 2).load_state_dict(state)


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_length_is_the_number_of_batches_of_this_rank(shuffle: bool, loader_of: LoaderOf) -> None:
    for ranks, trained, tested in ((1, 5, [6]), (2, 3, [3, 3]), (3, 2, [2, 2, 2]), (4, 1, [2, 2, 2, 2])):
        for rank in range(ranks):
            loader = loader_of(shuffle=shuffle, rank=rank, ranks=ranks)
            assert len(loader) == len(list(loader)) == (trained if shuffle else tested[rank])


def test_calling_iter_starts_nothing(loader_of: LoaderOf) -> None:
    loader = loader_of()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "read_batches", lambda keys: pytest.fail("it was read"))
        iterators = [iter(loader) for _ in range(3)]
    assert loader.state_dict()["samples"] == 0
    # The epoch is the sampler's at the first batch, because a Trainer sets it after iter.
    loader.sampler.set_epoch(7)
    assert_same(list(iterators[0]), list(loader_of(epoch=7)))


class Recorder(LightningModule):
    """Records the epoch of each step, and the label and a digest of the pixels of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, list[tuple[int, str]]]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        digests = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images.contiguous()]
        self.seen.append((self.current_epoch, list(zip(labels.tolist(), digests, strict=True))))
        output: Tensor = self.layer(images.mean().view(1, 1)).sum()
        return output

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Checkpoints(ModelCheckpoint):
    """Checkpoints without a state, because a state contains the run's directory."""

    def state_dict(self) -> dict[str, Any]:
        return {}


DataOf = Callable[[], LightningDataModule]


@pytest.fixture(params=["digits", pytest.param("folder", marks=pytest.mark.thorough), "ffcv"])
def data_of(request: pytest.FixtureRequest, photographs: Path) -> DataOf:
    if request.param == "digits":
        return lambda: Digits(batch_size=300)
    root = request.getfixturevalue("betons") if request.param == "ffcv" else photographs
    return lambda: ImageNet(str(root), request.param, batch_size=4, image_size=64, num_workers=1)


def fit(data: LightningDataModule, path: Path | None = None, **options: Any) -> tuple[Trainer, Recorder]:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer, module = Trainer(**(defaults | options)), Recorder()
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    return trainer, module


def test_a_run_that_resumes_sees_what_it_would_have_seen(data_of: DataOf, tmp_path: Path) -> None:
    every = Checkpoints(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    # A second validation within an epoch might disturb the loader.
    options: dict[str, Any] = {"max_epochs": 3, "val_check_interval": 3, "limit_val_batches": 1}
    _, whole = fit(data_of(), callbacks=[every], enable_checkpointing=True, **options)
    assert [epoch for epoch, _ in whole.seen] == [0] * 5 + [1] * 5 + [2] * 5
    for step in (4, 5, 8):
        trainer, resumed = fit(data_of(), tmp_path / f"step={step}.ckpt", **options)
        assert resumed.seen == whole.seen[step:]
        assert (trainer.global_step, trainer.current_epoch) == (15, 3)


def test_a_run_leaves_no_worker_process_behind(data_of: DataOf) -> None:
    before = multiprocessing.active_children()  # workers of an earlier test may still be ending
    _, module = fit(data_of(), max_epochs=2, limit_train_batches=3)
    assert len(module.seen) == 6
    assert set(multiprocessing.active_children()) <= set(before)
