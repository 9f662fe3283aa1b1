"""A user's own DataLoader, made to draw its order and augmentation as functions of (seed, epoch)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    get_worker_info,
)

from lightning_subnets.datamodules.loader import EpochSampler, WorkerLoader, seed_of

_OPTIONS = ["num_workers", "pin_memory", "timeout", "multiprocessing_context", "prefetch_factor", "persistent_workers"]


class SeededLoader(WorkerLoader):
    """The batches of a user's DataLoader, in the order of an ``EpochSampler``.

    The random numbers that the data set and ``collate_fn`` draw from torch, NumPy and Python are a function of (seed,
    epoch, first sample of the batch), for any number of workers. The generators of the process keep their states.
    """

    def __init__(self, loader: DataLoader[Any], sampler: EpochSampler) -> None:
        batches, self.dataset = loader.batch_sampler, loader.dataset
        assert isinstance(batches, BatchSampler)
        options = {name: getattr(loader, name) for name in _OPTIONS}
        options |= {"collate_fn": _collated, "worker_init_fn": partial(_start_worker, loader.worker_init_fn)}
        dataset = _SeededDataset(loader, sampler.size, sampler.seed)
        super().__init__(dataset, sampler, batches.batch_size, drop_last=batches.drop_last, **options)

    @property
    def _iterator(self) -> Any:
        """The iterator with the persistent workers; Lightning stops them through this name."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._loader._iterator = iterator


class _SeededDataset(Dataset[Any]):
    """A data set that is indexed by a batch of keys of an ``EpochSampler``, and returns the collated batch."""

    def __init__(self, loader: DataLoader[Any], size: int, seed: int) -> None:
        self.dataset: Any = loader.dataset
        self.collate, self.size, self.seed = loader.collate_fn, size, seed

    def __getitems__(self, keys: list[int]) -> Any:
        samples = [key % self.size for key in keys]
        with isolated_rng(seed_of(self.seed, keys[0])):  # MixUp and CutMix draw in ``collate_fn``
            if getattr(self.dataset, "__getitems__", None):
                return self.collate(self.dataset.__getitems__(samples))
            return self.collate([self.dataset[sample] for sample in samples])


def _collated(batch: Any) -> Any:
    return batch


def _start_worker(user_function: Callable[[int], None] | None, worker: int) -> None:
    """Make ``get_worker_info().dataset`` the user's own data set in this process, and call their function."""
    info = get_worker_info()
    assert info is not None
    wrapper: Any = info.dataset
    object.__setattr__(info, "dataset", wrapper.dataset)  # torch's class lets nobody assign to a field
    if user_function:
        user_function(worker)


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed the CPU generators of torch, NumPy and Python inside the block, and restore them after it."""
    with isolate_rng(include_cuda=False):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield


def seeded(loader: DataLoader[Any], *, seed: int, rank: int, ranks: int, train: bool = True) -> SeededLoader | None:
    """Return a loader of the same samples, ordered by (seed, epoch), or None if the loader or its sampler is unknown.

    Known are ``SequentialSampler``, ``RandomSampler`` without replacement, ``SubsetRandomSampler`` and
    ``DistributedSampler``, under a ``BatchSampler``. The loader's own ``generator`` is not used. A
    ``DistributedSampler`` overrides ``rank`` and ``ranks``. In training all ranks get equally many samples, and the
    last few are left out; otherwise each sample is on one rank.
    """
    batches, data = loader.batch_sampler, loader.dataset
    if type(loader) is not DataLoader or type(batches) is not BatchSampler:
        return None
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        return None
    sampler: Any = batches.sampler
    size = len(data)
    samples, shuffle = torch.arange(size), type(sampler) is not SequentialSampler
    if type(sampler) in (SequentialSampler, RandomSampler):
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
    order = EpochSampler(samples, size=size, shuffle=shuffle, seed=seed, rank=rank, num_replicas=ranks, train=train)
    return SeededLoader(loader, order)
