"""Data sets that fit into memory as one tensor: batches are cut from it, without worker processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator

import torch
from torch import Tensor
from torch.nn import functional

from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import Batch, EpochLoader
from lightning_subnets.datamodules.sampler import EpochSampler, generator


class TensorLoader(EpochLoader):
    """Batches of a data set held as two tensors.

    Args:
        images: uint8 (samples, channels, height, width).
        labels: int64 (samples,).
        padding: 0 leaves the images alone; else each is cut at random from itself with that many black pixels
            around it, and mirrored or not, as a function of (seed, epoch, order).
    """

    def __init__(self, images: Tensor, labels: Tensor, sampler: EpochSampler, batch_size: int, padding: int) -> None:
        super().__init__(sampler, batch_size)
        self.images, self.labels, self.padding = images, labels, padding

    def batches(self, keys: list[Tensor]) -> Generator[Batch]:
        for part in keys:
            samples = part % len(self.images)
            images = self.images[samples]
            if self.padding:
                images = crop_and_flip(images, self.padding, generator(self.sampler.seed, int(part[0])))
            yield images, self.labels[samples]


def crop_and_flip(images: Tensor, padding: int, random: torch.Generator) -> Tensor:
    """Each image cut at random from itself with a border of zeros, and mirrored with probability 1/2.

    Args:
        images: (batch, channels, height, width).
        padding: width of the border in pixels.
    """
    count, _, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=random)
    flip = torch.randint(0, 2, (count, 1), generator=random, dtype=torch.bool)
    rows = (top + torch.arange(height))[:, :, None]
    columns = left + torch.arange(width)
    columns = torch.where(flip, columns.flip(1), columns)[:, None, :]
    padded = functional.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    return padded[torch.arange(count)[:, None, None], rows, columns].permute(0, 3, 1, 2).contiguous()


class InMemoryDataModule(ImageDataModule):
    """An ``ImageDataModule`` of two tensors; ``load`` reads them."""

    padding = 0

    @abstractmethod
    def load(self, *, train: bool) -> Batch:
        """All images and labels of the training or the test set."""

    def setup(self, stage: str) -> None:
        if not hasattr(self, "train_set"):
            self.train_set, self.test_set = self.load(train=True), self.load(train=False)

    @property
    def num_train(self) -> int:
        return len(self.train_set[1])

    def batches(self, samples: Tensor | None, *, train: bool, augment: bool) -> TensorLoader:
        images, labels = self.train_set if train else self.test_set
        samples = torch.arange(len(labels)) if samples is None else samples
        sampler = self.sampler(samples, size=len(labels), shuffle=augment)
        return TensorLoader(images, labels, sampler, self.batch_size, self.padding if augment else 0)
