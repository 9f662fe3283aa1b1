"""Ranks share the samples of a user's own DataLoader, and as many or fewer resume in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rank_processes import on_ranks, trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset, WeightedRandomSampler

import lightning_subnets as ls
from lightning_subnets.training.module import SubnetModule

pytestmark = pytest.mark.thorough

COUNT = 200


class Watch(Callback):
    """Keeps the samples, and can save and stop after a number of steps."""

    def __init__(self, stop: int, folder: Path) -> None:
        self.samples: list[int] = []
        self.stop, self.folder = stop, folder

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.samples += batch[0][:, 0].int().tolist()
        if trainer.global_step == self.stop:
            trainer.save_checkpoint(self.folder / "middle.ckpt")
            trainer.should_stop = True


class Permuted(Sampler[int]):
    """A sampler of a user's own."""

    def __len__(self) -> int:
        return COUNT

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(COUNT).tolist())


def samples_of(folder: Path, shuffle: bool, stop: int, resumes: bool, own_sampler: bool = False) -> list[int]:
    """Return the samples that this rank sees in two epochs."""
    data = TensorDataset(torch.arange(float(COUNT))[:, None].expand(-1, 3), torch.arange(COUNT) % 10)
    loader: DataLoader[Any] = DataLoader(data, 8, shuffle=shuffle, sampler=Permuted() if own_sampler else None)
    network = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 10))
    module = SubnetModule(network, ls.EdgePopup(0.5), optimizer=lambda scores: torch.optim.SGD(scores, lr=1e-6))
    watch = Watch(stop, folder)
    path = folder / "middle.ckpt" if resumes else None
    trainer(callbacks=[watch], max_epochs=2, limit_val_batches=int(own_sampler)).fit(
        module, loader, loader, ckpt_path=path, weights_only=True
    )
    return watch.samples


def test_ranks_share_the_samples_of_a_users_loader_and_resume_with_as_many_ranks_or_fewer(tmp_path: Path) -> None:
    for shuffle in (True, False):
        whole = on_ranks(samples_of, tmp_path, shuffle, 0, False)
        assert sorted(whole[0][:100] + whole[1][:100]) == sorted(whole[0][100:] + whole[1][100:]) == list(range(COUNT))
        first = on_ranks(samples_of, tmp_path, shuffle, 20, False)  # of 13 an epoch
        rest = on_ranks(samples_of, tmp_path, shuffle, 0, True)
        assert [one + other for one, other in zip(first, rest, strict=True)] == whole
        (alone,) = on_ranks(samples_of, tmp_path, shuffle, 0, True, ranks=1)
        assert sorted(first[0][100:] + first[1][100:] + alone) == list(range(COUNT))


def evaluated(shuffle: bool) -> dict[str, float]:
    """Return what two ranks measure on five images, of which a network that always says class 1 knows three."""
    data = TensorDataset(torch.ones(5, 3), torch.tensor([1, 0, 1, 0, 1]))
    loader: DataLoader[Any] = DataLoader(data, 2, shuffle=shuffle)
    layer = nn.Linear(3, 2)
    module = SubnetModule(nn.Sequential(layer), ls.Dense(), optimizer=lambda weights: torch.optim.SGD(weights, lr=0.0))
    layer.weight.data.zero_()
    layer.bias.data = torch.tensor([0.0, 1.0])
    whole = trainer(max_epochs=1)
    whole.fit(module, loader, loader)
    (tested,) = whole.test(module, loader, verbose=False)
    (validated,) = whole.validate(module, loader, verbose=False)
    found = {name: float(value) for name, value in whole.callback_metrics.items()}
    return {**found, **tested, **validated}


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_evaluation_by_a_users_loader_counts_each_image_once(shuffle: bool) -> None:
    for found in on_ranks(evaluated, shuffle):
        assert [found[f"{stage}/accuracy"] for stage in ("val", "test")] == pytest.approx([0.6, 0.6])


def one_image_tested() -> None:
    loader: DataLoader[Any] = DataLoader(TensorDataset(torch.ones(1, 3), torch.tensor([1])), 2)
    trainer().test(SubnetModule(nn.Sequential(nn.Linear(3, 2)), ls.Dense()), loader, verbose=False)


def test_fewer_images_than_ranks_are_not_counted_twice() -> None:
    with pytest.raises(AssertionError, match="1 images are too few for 2 processes: start at most 1"):
        on_ranks(one_image_tested)


def overfitted() -> int:
    """Return the number of steps of two epochs that repeat one batch."""
    loader: DataLoader[Any] = DataLoader(TensorDataset(torch.rand(16, 3), torch.arange(16) % 2), 4)
    network = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
    module = SubnetModule(network, ls.EdgePopup(0.5), optimizer=lambda scores: torch.optim.SGD(scores, lr=1e-6))
    whole = trainer(max_epochs=2, overfit_batches=1)
    whole.fit(module, loader, loader)
    return whole.global_step


def test_ranks_repeat_a_batch_of_a_users_loader() -> None:
    assert on_ranks(overfitted) == [2, 2]


class Noise(Dataset[tuple[torch.Tensor, int]]):
    """Images of a random number that a worker draws."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(1).expand(3), index


def noise_of(folder: Path) -> list[float]:
    """Return the random numbers of this rank in two epochs, from an order that this package does not know."""
    loader: DataLoader[Any] = DataLoader(Noise(), 4, sampler=WeightedRandomSampler([1.0] * 8, 8), num_workers=1)
    network = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 10))
    module = SubnetModule(network, ls.EdgePopup(0.5), optimizer=lambda scores: torch.optim.SGD(scores, lr=1e-6))
    watch = Noted()
    trainer(callbacks=[watch], max_epochs=2, limit_val_batches=0).fit(module, loader, loader)
    return watch.noise


class Noted(Callback):
    def __init__(self) -> None:
        self.noise: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.noise += batch[0][:, 0].tolist()


def test_workers_of_different_ranks_augment_differently(tmp_path: Path) -> None:
    first, second = on_ranks(noise_of, tmp_path)
    assert len({*first, *second}) == len(first) + len(second) == 16


def test_ranks_share_the_samples_of_a_sampler_of_ones_own(tmp_path: Path) -> None:
    first, second = on_ranks(samples_of, tmp_path, False, 0, False, True)
    assert sorted(first[:100] + second[:100]) == sorted(first[100:] + second[100:]) == list(range(COUNT))
    assert first[:100] != first[100:]
