"""The order of the samples, a function of (seed, epoch), and loaders that resume in the middle of an epoch."""

from __future__ import annotations

import hashlib
import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_subnets.errors import UserError

Batch = tuple[Tensor, Tensor]


def generator(*key: int) -> torch.Generator:
    """Return a generator that is seeded by a key, such as (seed, epoch)."""
    return torch.Generator().manual_seed(seed_of(*key))


def seed_of(*key: int) -> int:
    """Return a 64-bit seed for torch, a hash of the key."""
    digest = hashlib.sha256(":".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


class EpochSampler:
    """The order of an epoch: each sample once over all ranks, shuffled by (seed, epoch) or as given.

    The sampler gives keys: ``epoch, sample = divmod(key, size)``. Because the key contains the epoch, any worker
    process can draw the augmentation of (epoch, sample).

    Args:
        samples: indices into a data set of ``size`` samples.
        train: give every rank the same number of samples, by omitting the last ``len(samples) % num_replicas`` of the
            epoch's order. The default is ``shuffle``.
    """

    epoch = 0

    def __init__(
        self,
        samples: Tensor,
        *,
        size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        num_replicas: int = 1,
        train: bool | None = None,
    ) -> None:
        self.samples, self.size, self.shuffle, self.seed = samples, size, shuffle, seed
        self.train = shuffle if train is None else train
        self.rank, self.num_replicas = rank, num_replicas

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch; a Trainer calls this before each epoch."""
        self.epoch = epoch

    def keys(self, start: int = 0) -> Tensor:
        """Return this rank's keys, int64, after all ranks together have handed out ``start`` samples of the epoch."""
        order = self.samples
        if self.shuffle:
            order = order[torch.randperm(len(order), generator=generator(self.seed, self.epoch))]
        if self.train:
            order = order[: start + self.left(start)]
        return order[start:][self.rank :: self.num_replicas] + self.epoch * self.size

    def left(self, start: int) -> int:
        """Return how many training samples all ranks together hand out after the first ``start``.

        If the epoch began with a different number of ranks, the rest may not divide evenly; then all of it is used.
        """
        left = max(0, len(self.samples) - start)
        return left if start % self.num_replicas else left - left % self.num_replicas

    def __len__(self) -> int:
        if self.train:
            return len(self.samples) // self.num_replicas
        return len(range(self.rank, len(self.samples), self.num_replicas))


class EpochLoader(ABC):
    """A loader of (images, labels) in the order of an ``EpochSampler``. It never overwrites a batch it handed out.

    An epoch starts when its first batch is requested, not at ``iter``, because Lightning also calls ``iter`` to inspect
    a loader. ``state_dict`` resumes a new loader in the middle of an epoch, on any number of ranks.

    Args:
        batch_size: samples per batch and rank.
        drop_last: omit a last training batch that would be smaller than the others.
    """

    batch_sampler = None  # Lightning reads this attribute

    def __init__(self, sampler: EpochSampler, batch_size: int, *, drop_last: bool = False) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        self._position = {"epoch": 0, "samples": 0}
        self._resumed: dict[str, int] | None = None

    def __len__(self) -> int:
        if self.sampler.train:
            return self._num_train_batches(len(self.sampler))
        return math.ceil(len(self.sampler) / self.batch_size)

    def _num_train_batches(self, samples: int) -> int:
        # A single last sample joins the batch before it, because batch norm cannot train on one sample.
        full, rest = divmod(samples, self.batch_size)
        return full if self.drop_last else max(full + (rest > 1), min(samples, 1))

    def remaining(self, limit: int) -> int:
        """Return how many training batches are left in the epoch, if it ends after ``limit`` batches."""
        start = self._resumed["samples"] if self._resumed else 0
        step = self.batch_size * self.sampler.num_replicas
        return min(len(self._split(start)[0]), math.ceil(max(0, limit * step - start) / step))

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.sampler.epoch, 0
        if self._resumed and self._resumed["epoch"] == epoch:
            start = self._resumed["samples"]
        self._resumed = None
        keys, ends = self._split(start)
        # Closing stops the workers at once if the caller breaks out of the loop.
        with closing(self.read_batches(keys)) as batches:
            for batch, end in zip(batches, ends, strict=True):
                self._position = {"epoch": epoch, "samples": end}
                yield batch

    def _split(self, start: int) -> tuple[list[Tensor], list[int]]:
        """Return the keys of each batch after the first ``start`` samples, and how many samples each batch ends at.

        In training, every rank gets the same number of batches.
        """
        sampler, size = self.sampler, self.batch_size
        keys, ranks = sampler.keys(start), sampler.num_replicas
        if sampler.train:
            # If the epoch began with a different number of ranks, some ranks may have one sample more than others.
            left = sampler.left(start)
            count, end = self._num_train_batches(left // ranks), start + left
            if self.drop_last:
                keys = keys[: count * size]
        else:
            count, end = math.ceil(len(keys) / size), len(sampler.samples)
        cuts = [batch * size for batch in range(1, count)]
        parts = keys.tensor_split(cuts) if count else ()
        return list(parts), [*(start + cut * ranks for cut in cuts), end][:count]

    @abstractmethod
    def read_batches(self, keys: list[Tensor]) -> Generator[Batch]:
        """Yield one batch for each tensor of keys, int64 (samples,)."""

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its samples that all ranks together have handed out."""
        return self._position

    def load_state_dict(self, state: dict[str, int]) -> None:
        counts = [count for count in state.values() if type(count) is int and count >= 0]
        if state.keys() != self._position.keys() or len(counts) < len(state):
            raise UserError(
                "the checkpoint is damaged, or from a run with another kind of loader: its position in the data is "
                f"{reprlib.repr(state):.200}"
            )
        self._position = self._resumed = state


class WorkerLoader(EpochLoader):
    """An ``EpochLoader`` over a data set that is indexed by keys, read by the worker processes of a DataLoader."""

    def __init__(
        self, dataset: Any, sampler: EpochSampler, batch_size: int, *, drop_last: bool = False, **options: Any
    ) -> None:
        super().__init__(sampler, batch_size, drop_last=drop_last)
        self._order: list[list[int]] = []
        # A DataLoader without its own generator draws from the global one in each epoch.
        seeds = generator(sampler.seed)
        self._loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=self._order, generator=seeds, **options)
        self.num_workers = self._loader.num_workers

    def read_batches(self, keys: list[Tensor]) -> Generator[Batch]:
        self._order[:] = [part.tolist() for part in keys]
        yield from self._loader
