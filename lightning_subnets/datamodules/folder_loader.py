"""Images read one by one from a folder by worker processes: slower than FFCV, and needs nothing but the photographs."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lightning_subnets.datamodules.crops import random_crops, shorter_side
from lightning_subnets.datamodules.image_files import read_image
from lightning_subnets.datamodules.loader import Batch, EpochLoader
from lightning_subnets.datamodules.sampler import EpochSampler, generator


class FolderLoader(EpochLoader):
    """Batches of photographs from their files.

    Args:
        files: path and label of each sample.
        size: from the epoch to the height and width of the images, in pixels.
        augment: cut out a random part, mirrored or not, rather than the centre.
        num_workers: processes that decode; at 0 this one does.

    Raises:
        ValueError: if a file cannot be read.
    """

    def __init__(
        self,
        files: list[tuple[str, int]],
        sampler: EpochSampler,
        batch_size: int,
        size: Callable[[int], int],
        augment: bool,
        num_workers: int,
    ) -> None:
        super().__init__(sampler, batch_size)
        self.num_workers = num_workers
        self._order: list[list[int]] = []
        # Workers of an epoch: with those that outlive it, a Trainer takes 5 seconds a worker to be collected.
        self._loader = DataLoader(
            _Photographs(files, size, sampler.seed, augment),
            batch_sampler=self._order,
            num_workers=num_workers,
            generator=generator(sampler.seed),  # or each loader would move the global one
            pin_memory=torch.cuda.is_available(),
        )

    def batches(self, keys: list[Tensor]) -> Generator[Batch]:
        self._order[:] = [part.tolist() for part in keys]
        for images, labels in self._loader:
            yield images.permute(0, 3, 1, 2), labels


class _Photographs(Dataset[tuple[Tensor, int]]):
    """The files by ``EpochSampler``'s keys; images uint8 (height, width, 3)."""

    def __init__(self, files: list[tuple[str, int]], size: Callable[[int], int], seed: int, augment: bool) -> None:
        self.files, self.size, self.seed, self.augment = files, size, seed, augment

    def __getitem__(self, key: int) -> tuple[Tensor, int]:
        epoch, sample = divmod(key, len(self.files))
        path, label = self.files[sample]
        cut = self._random_part if self.augment else self._centre
        image = cut(read_image(path), key, self.size(epoch))
        return torch.from_numpy(np.array(image)), label

    def _random_part(self, image: Image.Image, key: int, size: int) -> Image.Image:
        crop = random_crops(self.seed, np.array([key]), np.array([image.height]), np.array([image.width]))
        *box, mirrored = crop[0].tolist()
        part: Image.Image = v2.functional.resized_crop(image, *box, size=[size, size])
        return ImageOps.mirror(part) if mirrored else part

    def _centre(self, image: Image.Image, key: int, size: int) -> Image.Image:
        centre: Image.Image = v2.functional.center_crop(v2.functional.resize(image, [shorter_side(size)]), [size, size])
        return centre
