"""A user's own DataLoader resumes in the middle of an epoch like the package's data."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
)
from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice

import lightning_subnets as ls
from lightning_subnets.datamodules.seeded_loader import seeded
from lightning_subnets.training.module import SubnetModule

COUNT, SIZE = 200, 8


class Noisy(Dataset[tuple[Tensor, int]]):
    """Images of the sample's index and one random number from each generator."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.full((1, 2, 2), float(index))
        image[0, 0, 1], image[0, 1, 0], image[0, 1, 1] = torch.rand(1), np.random.rand(), random.random()
        return image, index % 10


class Stream(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return (Noisy()[index] for index in range(COUNT))


def mix(samples: list[Any]) -> Any:
    """Draw from torch as the ``collate_fn`` of torchvision's guide to CutMix and MixUp does."""
    return RandomChoice([CutMix(num_classes=10), MixUp(num_classes=10)])(*default_collate(samples))


class Stop(Exception):  # noqa: N818
    pass


class Watch(Callback):
    """Records the images of each batch, and can stop the run after a number of steps."""

    def __init__(self, stop: int = 0, path: Path | None = None) -> None:
        self.images: list[Tensor] = []
        self.stop, self.path = stop, path

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images.append(batch[0].clone())
        if trainer.global_step == self.stop:
            assert self.path is not None
            trainer.save_checkpoint(self.path)
            raise Stop

    def samples(self) -> list[int]:
        return [int(index) for batch in self.images for index in batch[:, 0, 0, 0]]


def module() -> SubnetModule:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    return SubnetModule(network, ls.EdgePopup(0.5), optimizer=lambda scores: torch.optim.SGD(scores, lr=1e-4))


def run(loader: Any, watch: Watch, path: Path | None = None, **options: Any) -> SubnetModule:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "log_every_n_steps": 1,
        "max_epochs": 3,
        "limit_val_batches": 0,
    }
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer, trained = Trainer(**(defaults | quiet | options), callbacks=[watch]), module()
    with suppress(Stop):
        trainer.fit(trained, loader, loader, ckpt_path=path, weights_only=True)
    return trained


def resumed(loader: Callable[[], Any], stop: int, path: Path) -> tuple[Watch, Watch, Watch, bool]:
    """Return the samples of a whole run, of a stopped and of a resumed run, and whether they end with equal weights."""
    whole, first, rest = Watch(), Watch(stop, path), Watch()
    expected = run(loader(), whole).state_dict()
    run(loader(), first)
    torch.manual_seed(99)  # as in a new process
    found = run(loader(), rest, path).state_dict()
    return whole, first, rest, all(torch.equal(value, found[key]) for key, value in expected.items())


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "shuffled": lambda: DataLoader(Noisy(), SIZE, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "by two workers": lambda: DataLoader(Noisy(), SIZE, shuffle=True, num_workers=2),
    "by persistent workers": lambda: DataLoader(Noisy(), SIZE, shuffle=True, num_workers=2, persistent_workers=True),
    "without the last": lambda: DataLoader(Noisy(), 9, shuffle=True, drop_last=True),
    "in order": lambda: DataLoader(Noisy(), SIZE),
    "mixed": lambda: DataLoader(Noisy(), SIZE, shuffle=True, collate_fn=mix),
    "mixed by two workers": lambda: DataLoader(Noisy(), SIZE, shuffle=True, collate_fn=mix, num_workers=2),
    "a part": lambda: DataLoader(Noisy(), SIZE, sampler=SubsetRandomSampler(range(0, COUNT, 2))),
}
SAMPLE = ["shuffled", "mixed", "a part"]


@pytest.mark.parametrize(
    "loader",
    [pytest.param(LOADERS[name], marks=[pytest.mark.thorough] * (name not in SAMPLE), id=name) for name in LOADERS],
)
def test_a_run_that_resumes_in_the_middle_of_an_epoch_sees_what_it_would_have_seen(
    loader: Callable[[], DataLoader[Any]], tmp_path: Path
) -> None:
    batches = len(loader())
    whole, first, rest, same = resumed(loader, batches + 5, tmp_path / "middle.ckpt")
    images = [*first.images, *rest.images]
    assert len(images) == len(whole.images) == 3 * batches
    assert all(torch.equal(one, other) for one, other in zip(images, whole.images, strict=True))
    assert same
    epochs = [torch.cat(whole.images[epoch * batches : (epoch + 1) * batches])[:, 0, 0, 0] for epoch in range(3)]
    assert all(len(set(epoch.tolist())) == len(epoch) for epoch in epochs)
    if not isinstance(loader().sampler, SequentialSampler):
        assert not torch.equal(epochs[0], epochs[1])


def test_a_run_whose_end_is_a_number_of_steps_resumes_in_the_middle_of_an_epoch_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, first, rest = Watch(), Watch(30, tmp_path / "middle.ckpt"), Watch()
    for watch, path in ((whole, None), (first, None), (rest, first.path)):
        run(LOADERS["shuffled"](), watch, path, max_epochs=-1, max_steps=60)
    assert first.samples() + rest.samples() == whole.samples()
    assert "may repeat samples" not in capsys.readouterr().err


def test_the_order_is_a_function_of_the_seed_and_the_number_of_workers_changes_nothing() -> None:
    one, two = Watch(), Watch()
    run(LOADERS["shuffled"](), one, max_epochs=1)
    torch.manual_seed(7)
    run(LOADERS["by two workers"](), two, max_epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(one.images, two.images, strict=True))
    assert sorted(one.samples()) == list(range(COUNT))


def test_a_users_loader_leaves_the_global_generators() -> None:
    for workers in (0, 2):
        before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
        loader = seeded(DataLoader(Noisy(), SIZE, shuffle=True, num_workers=workers), seed=0, rank=0, ranks=1)
        assert loader is not None
        assert len(list(loader)) == len(loader) == 25
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (random.getstate(), repr(np.random.get_state())) == before[1:]


class Opened(Noisy):
    """Reads from a file that each worker opens for itself, as an h5py file must be."""

    file: Tensor | None = None

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        info = get_worker_info()
        assert info is not None
        assert info.dataset is self
        assert self.file is not None
        return self.file[index], index % 10


def open_file(worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    assert type(info.dataset) is Opened
    info.dataset.file = torch.arange(COUNT).reshape(-1, 1)


def test_a_worker_init_fn_gets_the_users_own_data_set() -> None:
    loader = seeded(DataLoader(Opened(), SIZE, num_workers=1, worker_init_fn=open_file), seed=0, rank=0, ranks=1)
    assert loader is not None
    assert torch.equal(torch.cat([images for images, _ in loader])[:, 0], torch.arange(COUNT))


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
def test_a_line_says_that_a_loader_of_unknown_order_may_repeat_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_weight = DataLoader(Noisy(), SIZE, sampler=WeightedRandomSampler([1.0] * COUNT, COUNT))
    with_replacement = DataLoader(Noisy(), SIZE, sampler=RandomSampler(Noisy(), replacement=True))
    for unknown in (by_weight, with_replacement, DataLoader(Stream(), SIZE)):
        assert seeded(unknown, seed=0, rank=0, ranks=1) is None
    first, rest = Watch(30, tmp_path / "middle.ckpt"), Watch()
    run(by_weight, first)
    assert "repeat" not in capsys.readouterr().err
    run(by_weight, rest, tmp_path / "middle.ckpt")
    assert len(rest.images) == 45
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "repeat" in line)
    assert "samples this epoch has already had is not known: the rest of it may repeat samples and omit others" in line


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
@pytest.mark.parametrize("known_first", [True, False])
def test_a_run_may_resume_with_a_loader_of_another_kind(
    known_first: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_weight = DataLoader(Noisy(), SIZE, sampler=WeightedRandomSampler([1.0] * COUNT, COUNT))
    before, after = (LOADERS["shuffled"](), by_weight) if known_first else (by_weight, LOADERS["shuffled"]())
    rest = Watch()
    run(before, Watch(30, tmp_path / "middle.ckpt"))
    run(after, rest, tmp_path / "middle.ckpt")
    assert len(rest.images) == 45
    assert "may repeat samples" in capsys.readouterr().err


@pytest.mark.parametrize("known", [RandomSampler, SequentialSampler])
def test_a_subclass_of_a_known_sampler_keeps_its_own_order(known: Any) -> None:
    own = type("Backwards", (known,), {"__iter__": lambda self: iter(range(COUNT - 1, -1, -1))})
    assert seeded(DataLoader(Noisy(), SIZE, sampler=own(Noisy())), seed=0, rank=0, ranks=1) is None


class Eager:
    """A loader with a state, which ``iter`` reads."""

    def __init__(self) -> None:
        self.place = 0

    def __len__(self) -> int:
        return 25

    def __iter__(self) -> Iterator[Any]:
        start, self.place = self.place, 0
        return self._from(start)

    def _from(self, start: int) -> Iterator[Any]:
        for batch in range(start, 25):
            self.done = batch + 1
            yield torch.full((2, 1, 2, 2), float(batch)), torch.tensor([0, 1])

    def state_dict(self) -> dict[str, int]:
        return {"place": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


def test_a_loader_with_its_own_state_resumes_by_it(tmp_path: Path) -> None:
    whole, first, rest, same = resumed(Eager, 30, tmp_path / "middle.ckpt")
    assert first.samples() + rest.samples() == whole.samples()
    assert same


@pytest.mark.parametrize("sampler", [None, SubsetRandomSampler([]), []], ids=["no data", "none chosen", "unknown"])
def test_a_loader_without_images_is_an_error(sampler: Any) -> None:
    for size in (1, SIZE):
        loader = DataLoader(Subset(Noisy(), range(0 if sampler is None else COUNT)), size, sampler=sampler)
        with pytest.raises(ls.UserError, match="the DataLoader has no batch to train on: look at what its Subset"):
            run(loader, Watch())


@pytest.mark.parametrize("images", [17, 8])
def test_a_last_batch_of_one_image_is_joined_or_refused_before_anything_is_trained(images: int) -> None:
    data, watch = Subset(Noisy(), range(images)), Watch()
    run(DataLoader(data, 8, shuffle=True), watch, max_epochs=1)
    assert [len(batch) for batch in watch.images] == ([8, 9] if images == 17 else [8])
    sampler = RandomSampler(data, replacement=True, num_samples=17)
    refused = Watch()
    with pytest.raises(ls.UserError, match="17 images in batches of 8 gives a batch of one image"):
        run(DataLoader(data, 8, sampler=sampler), refused)
    assert refused.images == []
    run(DataLoader(data, 8, sampler=sampler, drop_last=True), refused, max_epochs=1)
    assert len(refused.images) == 2
