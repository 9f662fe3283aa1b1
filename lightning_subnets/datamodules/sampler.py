"""The order of the samples, a function of (seed, epoch)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler


def generator(*key: int) -> torch.Generator:
    """Random numbers that are a function of the key alone: (seed, epoch), (seed, epoch, sample)."""
    return torch.Generator().manual_seed(seed_of(*key))


def seed_of(*key: int) -> int:
    """A seed for torch, a function of the key: int64."""
    digest = hashlib.sha256(":".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


# A DistributedSampler, so that Lightning leaves it in its place when there are several ranks.
class EpochSampler(DistributedSampler[int]):
    """Each of the samples once an epoch over all ranks, shuffled by (seed, epoch) or in their order.

    Yields keys: ``epoch, sample = divmod(key, size)``. The epoch rides in the key so that whatever reads the
    sample can draw the augmentation of (epoch, sample), whichever worker it is and however long it lives.

    Args:
        samples: the indices to go through, in a data set of ``size``.
        shuffle: shuffle the samples by (seed, epoch).
        train: give all ranks the same number of samples: the last ``len(samples) % num_replicas`` of the epoch's
            order are left out. By default, do so if ``shuffle`` is set.
    """

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
        self.epoch = 0

    def keys(self, start: int = 0) -> Tensor:
        """This rank's keys of the epoch, int64; without the first ``start`` samples of all ranks together."""
        order = self.samples
        if self.shuffle:
            order = order[torch.randperm(len(order), generator=generator(self.seed, self.epoch))]
        if self.train:
            order = order[: start + self.left(start)]
        return order[start:][self.rank :: self.num_replicas] + self.epoch * self.size

    def left(self, start: int) -> int:
        """How many samples all ranks together hand out after the first ``start``, to train.

        Where as many ranks handed out those, there are as many for each of them. Others may have left a number that
        cannot be shared out evenly: then none is left out beforehand.
        """
        left = max(0, len(self.samples) - start)
        return left if start % self.num_replicas else left - left % self.num_replicas

    def __iter__(self) -> Iterator[int]:
        yield from self.keys().tolist()

    def __len__(self) -> int:
        if self.train:
            return len(self.samples) // self.num_replicas
        return len(range(self.rank, len(self.samples), self.num_replicas))
