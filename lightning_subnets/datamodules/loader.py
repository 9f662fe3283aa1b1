"""What every loader has: a sampler's order, cut into batches, and a place in it to go on from."""

from __future__ import annotations

import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing

from torch import Tensor

from lightning_subnets.datamodules.sampler import EpochSampler
from lightning_subnets.errors import UserError

Batch = tuple[Tensor, Tensor]


class EpochLoader(ABC):
    """Batches of (images, labels) in the order of a sampler, each in memory that is not written to again.

    An epoch begins with the first batch that is asked for, so that one who only calls ``iter``, as Lightning does
    to look at a loader, starts nothing; and it ends with the iterator, wherever that is. What it holds is the
    sampler's epoch at that time: ``loader.sampler.set_epoch(n)``, which a Trainer calls.

    A loader goes on in the middle of an epoch, on any number of ranks, from the ``state_dict`` of one that stopped
    there; a Trainer keeps it in its checkpoints.

    Args:
        sampler: gives the order.
        batch_size: of each rank.
        drop_last: leave out a last training batch that would be smaller than the others.
    """

    batch_sampler = None  # Lightning looks for one beside a sampler

    def __init__(self, sampler: EpochSampler, batch_size: int, *, drop_last: bool = False) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        self._handed_out = {"epoch": 0, "samples": 0}
        self._resumed: dict[str, int] | None = None

    def __len__(self) -> int:
        if self.sampler.train:
            return self._count(len(self.sampler))
        return math.ceil(len(self.sampler) / self.batch_size)

    def _count(self, samples: int) -> int:
        """Return how many training batches a rank's samples make.

        A single last sample joins the batch before it, because batch norm cannot be trained on a batch of one.
        """
        full, rest = divmod(samples, self.batch_size)
        if self.drop_last:
            return full
        return max(full + (rest > 1), min(samples, 1))

    def remaining(self, batches: int) -> int:
        """How many batches it will hand out next, in a training epoch that is cut off after so many.

        That is fewer than an epoch's where it goes on in the middle of one, whoever handed out the batches before.
        """
        start = self._resumed["samples"] if self._resumed else 0
        step = self.batch_size * self.sampler.num_replicas
        return min(len(self._parts(start)[0]), -(-max(0, batches * step - start) // step))

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.sampler.epoch, 0
        if self._resumed and self._resumed["epoch"] == epoch:
            start = self._resumed["samples"]
        self._resumed = None
        parts, ends = self._parts(start)
        with closing(self.batches(parts)) as batches:  # or one who breaks off would leave its end to the collector
            for batch, end in zip(batches, ends, strict=True):
                self._handed_out = {"epoch": epoch, "samples": end}
                yield batch

    def _parts(self, start: int) -> tuple[list[Tensor], list[int]]:
        """The batches after the first ``start`` samples: their keys, and how many samples are handed out after each.

        To train, there are as many on every rank.
        """
        sampler, size = self.sampler, self.batch_size
        keys, ranks = sampler.keys(start), sampler.num_replicas
        if sampler.train:
            # If another number of ranks began the epoch, the first ranks may have a sample more than the others.
            left = sampler.left(start)
            count, end = self._count(left // ranks), start + left
            if self.drop_last:
                keys = keys[: count * size]
        else:
            count, end = math.ceil(len(keys) / size), len(sampler.samples)
        cuts = [batch * size for batch in range(1, count)]
        parts = keys.tensor_split(cuts) if count else ()
        return list(parts), [*(start + cut * ranks for cut in cuts), end][:count]

    @abstractmethod
    def batches(self, keys: list[Tensor]) -> Generator[Batch]:
        """The batches of these keys; of each batch the keys of its samples, int64 (samples,)."""

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its samples all ranks together have handed out."""
        return self._handed_out

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state.keys() != self._handed_out.keys() or not all(
            type(count) is int and count >= 0 for count in state.values()
        ):
            raise UserError(f"the checkpoint is damaged: its position in the data is {reprlib.repr(state)}")
        self._handed_out = self._resumed = state
