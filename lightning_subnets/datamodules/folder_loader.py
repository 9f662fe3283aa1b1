"""A loader that reads photographs from a folder in worker processes. It needs no prepared files, unlike FFCV."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional

from lightning_subnets.datamodules.crops import random_crops, shorter_side
from lightning_subnets.datamodules.image_files import Files, read_image
from lightning_subnets.datamodules.loader import Batch, EpochSampler, WorkerLoader


class FolderLoader(WorkerLoader):
    """Batches of photographs from their files.

    Args:
        files: path and label of each sample.
        size: the height and width of the images in an epoch, in pixels.
        augment: cut a random part, mirrored or not, instead of the centre.
        num_workers: processes that decode; 0 decodes in this process.
    """

    def __init__(
        self,
        files: Files,
        sampler: EpochSampler,
        batch_size: int,
        size: Callable[[int], int],
        augment: bool,
        num_workers: int,
    ) -> None:
        # The workers are not persistent, because a Trainer would then need 5 seconds per worker to shut down.
        photographs = _Photographs(files, size, sampler.seed, augment)
        pin_memory = torch.cuda.is_available()
        super().__init__(photographs, sampler, batch_size, num_workers=num_workers, pin_memory=pin_memory)

    def read_batches(self, keys: list[Tensor]) -> Generator[Batch]:
        for images, labels in super().read_batches(keys):
            yield images.permute(0, 3, 1, 2), labels


class _Photographs(Dataset[tuple[Tensor, int]]):
    """The images of the files, uint8 (height, width, 3), indexed by the keys of an ``EpochSampler``."""

    def __init__(self, files: Files, size: Callable[[int], int], seed: int, augment: bool) -> None:
        self.files, self.size, self.seed, self.augment = files, size, seed, augment

    def __getitem__(self, key: int) -> tuple[Tensor, int]:
        epoch, sample = divmod(key, len(self.files))
        path, label = self.files[sample]
        image, size = read_image(path), self.size(epoch)
        if self.augment:
            crops = random_crops(self.seed, np.array([key]), np.array([image.height]), np.array([image.width]))
            *box, mirrored = crops[0].tolist()
            image = functional.resized_crop(image, *box, size=[size, size])
            image = ImageOps.mirror(image) if mirrored else image
        else:
            image = functional.center_crop(functional.resize(image, [shorter_side(size)]), [size, size])
        return torch.from_numpy(np.array(image)), label
