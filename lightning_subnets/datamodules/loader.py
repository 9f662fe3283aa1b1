"""What every loader has: a sampler's order, cut into batches, and a place in it to go on from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing

from torch import Tensor

from lightning_subnets.datamodules.sampler import EpochSampler

Batch = tuple[Tensor, Tensor]


class EpochLoader(ABC):
    """Batches of (images, labels) in the order of a sampler, each in memory that is not written to again.

    An epoch begins with the first batch that is asked for, so that one who only calls ``iter``, as Lightning does
    to look at a loader, starts nothing; and it ends with the iterator, wherever that is. What it holds is the
    sampler's epoch at that time: ``loader.sampler.set_epoch(n)``, which a Trainer calls.

    A loader goes on in the middle of an epoch, on any number of ranks, from the ``state_dict`` of one that stopped
    there; a Trainer keeps it in its checkpoints.
    """

    batch_sampler = None  # Lightning looks for one beside a sampler

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size
        self._handed_out = {"epoch": 0, "samples": 0}
        self._resumed: dict[str, int] | None = None

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.sampler.epoch, 0
        if self._resumed and self._resumed["epoch"] == epoch:
            start = self._resumed["samples"]
        self._resumed = None
        keys = self.sampler.keys(start)
        parts = [keys[first : first + self.batch_size] for first in range(0, len(keys), self.batch_size)]
        with closing(self.batches(parts)) as batches:  # or one who breaks off would leave its end to the collector
            for batch in batches:
                start += self.batch_size * self.sampler.num_replicas
                self._handed_out = {"epoch": epoch, "samples": start}
                yield batch

    @abstractmethod
    def batches(self, keys: list[Tensor]) -> Generator[Batch]:
        """The batches of these keys; of each batch the keys of its samples, int64 (samples,)."""

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its samples all ranks together have handed out."""
        return self._handed_out

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._handed_out = self._resumed = state
