"""Data sets held in memory as one tensor, on the device that computes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lightning_subnets.datamodules.crops import random_bits
from lightning_subnets.datamodules.image_files import Files, read_image
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import Batch, EpochLoader, EpochSampler
from lightning_subnets.errors import UserError
from lightning_subnets.progress_bar import progress

# Images to augment at a time: for a small batch, launching the kernels would take longer than running them.
SLAB = 1024


class TensorLoader(EpochLoader):
    """Batches of a data set that is held as two tensors. They are cut on the tensors' device, without waiting for it.

    Args:
        images: uint8 (samples, channels, height, width).
        labels: int64 (samples,).
        padding: width of a black border, in pixels. Each image is cut at random from itself with this border, and
            mirrored or not, as a function of (seed, epoch, sample). With 0, images are not augmented.
    """

    def __init__(self, images: Tensor, labels: Tensor, sampler: EpochSampler, batch_size: int, padding: int) -> None:
        super().__init__(sampler, batch_size)
        self.images, self.labels, self.padding = images, labels, padding

    def read_batches(self, keys: list[Tensor]) -> Generator[Batch]:
        if not keys:
            return
        epoch = torch.cat(keys)
        choices = epoch[None] % len(self.images)
        if self.padding:
            choices = torch.cat([choices, random_shifts(self.sampler.seed, epoch, self.padding)])
        choices = choices.to(self.images.device)  # once per epoch, because a copy from the host blocks
        sizes = [len(part) for part in keys]
        step = math.ceil(SLAB / self.batch_size)
        groups = [sizes[first : first + step] for first in range(0, len(sizes), step)]
        for group, slab in zip(groups, torch.split(choices, [sum(group) for group in groups], dim=1), strict=True):
            images, labels = self.images.index_select(0, slab[0]), self.labels.index_select(0, slab[0])
            if self.padding:
                images = crop_and_flip(images, slab[1:], self.padding)
            yield from zip(torch.split(images, group), torch.split(labels, group), strict=True)


def random_shifts(seed: int, keys: Tensor, padding: int) -> Tensor:
    """Draw where each image is cut and whether it is mirrored, uniformly, as a function of (seed, key).

    Returns: int64 (3, images): top and left, from 0 to ``2 * padding``, and 1 for mirrored.
    """
    choices = np.array([2 * padding + 1, 2 * padding + 1, 2], dtype=np.uint64)
    return torch.from_numpy((random_bits(seed, keys.numpy(), 3) % choices).astype(np.int64).T)


def crop_and_flip(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Pad images (batch, channels, height, width) with zeros, cut each at its shift, and mirror some.

    The result is contiguous and has the shape of the images.
    """
    top, left, mirrored = shifts[..., None]
    batch, channels, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    # Select whole rows first and columns second: on a CPU this is several times faster than a gather of pixels.
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * padded.shape[2]
    rows = planes + (top + torch.arange(height, device=images.device))[:, None]
    columns = left + torch.arange(width, device=images.device)
    columns = torch.where(mirrored == 1, columns.flip(1), columns)[:, None, None]
    cut = padded.flatten(0, 2).index_select(0, rows.flatten()).view(batch, channels, height, -1)
    return cut.gather(3, columns.expand(-1, channels, height, -1))


class InMemoryDataModule(ImageDataModule):
    """An ``ImageDataModule`` whose ``load`` returns tensors; each rank copies them once to its device."""

    padding = 0

    @abstractmethod
    def load(self, *, train: bool) -> Batch:
        """Return all images and labels of the training or the test set."""

    def setup(self, stage: str) -> None:
        if not hasattr(self, "train_set"):
            self.train_set, self.test_set = self.load(train=True), self.load(train=False)
            self._copies: dict[tuple[bool, torch.device], Batch] = {}

    def read(self, files: Files) -> Batch:
        """Read image files of ``image_shape`` by threads, with a progress bar; return images and labels."""
        images = np.empty((len(files), *self.image_shape), np.uint8)
        height, width = self.image_shape[1:]

        def fill(index: int) -> None:
            image = read_image(files[index][0])
            if image.size != (width, height):
                raise UserError(
                    f"{files[index][0]} is {image.width}x{image.height} pixels; those of {type(self).__name__} are "
                    f"{width}x{height}"
                )
            images[index] = np.asarray(image).transpose(2, 0, 1)

        with ThreadPoolExecutor() as pool:
            for _ in zip(progress(files, "reading images"), pool.map(fill, range(len(files))), strict=True):
                pass
        return torch.from_numpy(images), torch.tensor([label for _, label in files])

    @property
    def num_train(self) -> int:
        return len(self.train_set[1])

    def make_loader(self, samples: Tensor | None, *, train: bool, augment: bool) -> TensorLoader:
        data = self.train_set if train else self.test_set
        device = self.trainer.strategy.root_device if self.trainer else data[0].device
        if (train, device) not in self._copies:
            self._copies[train, device] = data[0].to(device), data[1].to(device)
        images, labels = self._copies[train, device]
        sampler = self.sampler(samples, size=len(labels), shuffle=augment)
        return TensorLoader(images, labels, sampler, self.batch_size, self.padding if augment else 0)
