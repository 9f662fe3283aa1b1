"""A user's own DataLoader, with order and augmentation as functions of (seed, epoch)."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from lightning_subnets.datamodules.loader import Batch, EpochLoader
from lightning_subnets.datamodules.sampler import EpochSampler, generator, seed_of


class SeededLoader(EpochLoader):
    """The batches of a DataLoader, read from its data set by its workers, in the order of an ``EpochSampler``.

    Random numbers that the data set draws from torch, NumPy and Python are a function of (seed, epoch, first sample of
    the batch), for any number of workers. The generators of the process stay as they were.
    """

    def __init__(self, loader: DataLoader[Any], sampler: EpochSampler) -> None:
        batches = loader.batch_sampler
        assert isinstance(batches, BatchSampler)
        super().__init__(sampler, batches.batch_size, drop_last=batches.drop_last)
        self.dataset, self.num_workers = loader.dataset, loader.num_workers
        self._order: list[list[int]] = []
        self._loader: DataLoader[Any] = DataLoader(
            _Seeded(loader.dataset, sampler.size, sampler.seed),
            batch_sampler=self._order,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=generator(sampler.seed),  # without it each epoch would draw from the global generator
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    def batches(self, keys: list[Tensor]) -> Generator[Batch]:
        self._order[:] = [part.tolist() for part in keys]
        yield from self._loader

    @property
    def _iterator(self) -> Any:
        """The iterator with the persistent workers; Lightning ends them through this name."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._loader._iterator = iterator


class _Seeded(Dataset[Any]):
    """A data set that is indexed by the keys of an ``EpochSampler``, a batch at a time."""

    def __init__(self, dataset: Any, size: int, seed: int) -> None:
        self.dataset, self.size, self.seed = dataset, size, seed

    def __getitems__(self, keys: list[int]) -> list[Any]:
        samples = [key % self.size for key in keys]
        with isolated_rng(seed_of(self.seed, keys[0])):
            if getattr(self.dataset, "__getitems__", None):
                items: list[Any] = self.dataset.__getitems__(samples)
                return items
            return [self.dataset[sample] for sample in samples]

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the data set, which a ``worker_init_fn`` may use."""
        if name == "dataset":  # which is missing while this object is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed the CPU generators of torch, NumPy and Python inside the block, and restore them after it."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def seeded(loader: DataLoader[Any], *, seed: int, rank: int, ranks: int) -> SeededLoader | None:
    """Return the loader with its order by (seed, epoch), or None if its sampler or the loader itself is another kind.

    The sampler may be a ``SequentialSampler``, a ``RandomSampler`` without replacement, a ``SubsetRandomSampler`` or a
    ``DistributedSampler``, under a ``BatchSampler``. The loader's own ``generator`` is not used.

    Args:
        loader: a user's DataLoader.
        seed: of the order, and of what the data set draws.
        rank, ranks: of this process, unless the loader has a ``DistributedSampler``, which gives its own.
    """
    batches, data = loader.batch_sampler, loader.dataset
    if (
        type(loader) is not DataLoader
        or type(batches) is not BatchSampler
        or isinstance(data, IterableDataset)
        or not hasattr(data, "__len__")
    ):
        return None
    sampler: Any = batches.sampler
    size = len(data)
    samples, shuffle = torch.arange(size), type(sampler) is not SequentialSampler
    if isinstance(sampler, SequentialSampler | RandomSampler):
        if len(sampler) != size or getattr(sampler, "replacement", False):
            return None
    elif type(sampler) is SubsetRandomSampler:
        samples = torch.tensor(list(sampler.indices))
        if samples.dtype != torch.int64 or not ((samples >= 0) & (samples < size)).all():
            return None
    elif type(sampler) is DistributedSampler:
        shuffle, rank, ranks = sampler.shuffle, sampler.rank, sampler.num_replicas
    else:
        return None
    order = EpochSampler(samples, size=size, shuffle=shuffle, seed=seed, rank=rank, num_replicas=ranks, train=True)
    return SeededLoader(loader, order)
