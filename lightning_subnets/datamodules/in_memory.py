"""Data sets that fit into memory as one tensor, a GPU's where one computes: batches are cut from it there."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from lightning_subnets.datamodules.crops import random_bits
from lightning_subnets.datamodules.image_files import read_image
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import Batch, EpochLoader
from lightning_subnets.datamodules.sampler import EpochSampler
from lightning_subnets.errors import UserError

# Images to gather and augment at a time. A small batch is a few microseconds' work for a GPU, less than it takes to
# tell it so; what is cut from a slab costs it nothing.
SLAB = 1024


class TensorLoader(EpochLoader):
    """Batches of a data set held as two tensors, on their device, which is never waited for.

    Args:
        images: uint8 (samples, channels, height, width).
        labels: int64 (samples,).
        padding: 0 leaves the images alone; else each is cut at random from itself with that many black pixels
            around it, and mirrored or not, as a function of (seed, epoch, sample).
    """

    def __init__(self, images: Tensor, labels: Tensor, sampler: EpochSampler, batch_size: int, padding: int) -> None:
        super().__init__(sampler, batch_size)
        self.images, self.labels, self.padding = images, labels, padding

    def batches(self, keys: list[Tensor]) -> Generator[Batch]:
        if not keys:
            return
        epoch = torch.cat(keys)
        choices = epoch[None] % len(self.images)
        if self.padding:
            choices = torch.cat([choices, random_shifts(self.sampler.seed, epoch, self.padding)])
        choices = choices.to(self.images.device)  # once an epoch: a copy from the host makes it wait
        sizes = [len(part) for part in keys]
        batches_at_a_time = math.ceil(SLAB / self.batch_size)
        groups = [sizes[first : first + batches_at_a_time] for first in range(0, len(sizes), batches_at_a_time)]
        for group, slab in zip(groups, torch.split(choices, [sum(group) for group in groups], dim=1), strict=True):
            images, labels = self.images.index_select(0, slab[0]), self.labels.index_select(0, slab[0])
            if self.padding:
                images = crop_and_flip(images, slab[1:], self.padding)
            yield from zip(torch.split(images, group), torch.split(labels, group), strict=True)


def random_shifts(seed: int, keys: Tensor, padding: int) -> Tensor:
    """Where each image is cut out and whether it is mirrored, all equally likely, a function of (seed, key).

    Args:
        keys: of ``EpochSampler``, int64 (images,).
        padding: width of the border in pixels.

    Returns: int64 (3, images): top and left, from 0 to ``2 * padding``, and 1 for mirrored.
    """
    choices = np.array([2 * padding + 1, 2 * padding + 1, 2], dtype=np.uint64)
    return torch.from_numpy((random_bits(seed, keys.numpy(), 3) % choices).astype(np.int64).T)


def crop_and_flip(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Each image cut from itself with a border of zeros, then mirrored or not; contiguous, of the images' shape.

    Args:
        images: (batch, channels, height, width).
        shifts: as ``random_shifts`` returns them, int64 (3, batch).
        padding: width of the border in pixels.
    """
    top, left, mirrored = shifts[..., None]
    batch, channels, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    # First whole rows, as entries of one list of all rows, and of those the columns: several times faster on a CPU
    # than to look up pixel by pixel.
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * padded.shape[2]
    rows = planes + (top + torch.arange(height, device=images.device))[:, None]
    columns = left + torch.arange(width, device=images.device)
    columns = torch.where(mirrored == 1, columns.flip(1), columns)[:, None, None]
    cut = padded.flatten(0, 2).index_select(0, rows.flatten()).view(batch, channels, height, -1)
    return cut.gather(3, columns.expand(-1, channels, height, -1))


class InMemoryDataModule(ImageDataModule):
    """An ``ImageDataModule`` of two tensors; ``load`` reads them.

    With a Trainer its loaders have them on the device it computes on, each rank on its own.
    """

    padding = 0

    @abstractmethod
    def load(self, *, train: bool) -> Batch:
        """All images and labels of the training or the test set."""

    def setup(self, stage: str) -> None:
        if not hasattr(self, "train_set"):
            self.train_set, self.test_set = self.load(train=True), self.load(train=False)
            self._copies: dict[tuple[bool, torch.device], Batch] = {}

    def read(self, files: list[tuple[str, int]]) -> Batch:
        """The images of these files, by threads, and their labels; on a terminal with a bar that says how far it is.

        Raises:
            ValueError: naming the file, if one is no whole image of ``image_shape``.
        """
        console = Console(stderr=True)
        silent = not console.is_terminal or bool(self.trainer and not self.trainer.is_global_zero)
        images = np.empty((len(files), *self.image_shape), np.uint8)

        def fill(index: int) -> None:
            images[index] = self._pixels(files[index][0])

        with ThreadPoolExecutor() as pool:
            each = pool.map(fill, range(len(files)))
            for _ in track(each, "reading images", total=len(files), console=console, transient=True, disable=silent):
                pass
        return torch.from_numpy(images), torch.tensor([label for _, label in files])

    def _pixels(self, path: str) -> NDArray[np.uint8]:
        """The image in a file, uint8 (channels, height, width)."""
        image, (_, height, width) = read_image(path), self.image_shape
        if image.size != (width, height):
            raise UserError(
                f"{path} is {image.width}x{image.height} pixels; those of {type(self).__name__} are {width}x{height}"
            )
        return np.asarray(image).transpose(2, 0, 1)

    @property
    def num_train(self) -> int:
        return len(self.train_set[1])

    def batches(self, samples: Tensor | None, *, train: bool, augment: bool) -> TensorLoader:
        images, labels = self._on_device(train=train)
        samples = torch.arange(len(labels)) if samples is None else samples
        sampler = self.sampler(samples, size=len(labels), shuffle=augment)
        return TensorLoader(images, labels, sampler, self.batch_size, self.padding if augment else 0)

    def _on_device(self, *, train: bool) -> Batch:
        images, labels = self.train_set if train else self.test_set
        device = self.trainer.strategy.root_device if self.trainer else images.device
        if (train, device) not in self._copies:
            self._copies[train, device] = images.to(device), labels.to(device)
        return self._copies[train, device]
