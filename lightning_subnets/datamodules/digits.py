"""The handwritten digits of scikit-learn, which need no download."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from lightning_subnets.datamodules.in_memory import InMemoryDataModule
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.errors import UserError


class Digits(InMemoryDataModule):
    """1,797 handwritten digits of 8x8 pixels, 1,437 to train on and 360 to test, stratified by class.

    Args:
        batch_size: images per step and process.
        validation_fraction: fraction of the training set that is held out; with 0, validation is on the test set.
        seed: seed of the order of the samples and the held-out images.
        image_size: height and width in pixels. Larger images are interpolated linearly, for networks that downsample
            more often than 8 pixels allow.
        num_classes: keep the digits from 0 to ``num_classes - 1``.
        permutation: seed of a fixed random order of the pixels, another task for each seed; null leaves them in place.

    Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository, its test set.
    """

    mean: tuple[float, ...] = (0.305,)
    std: tuple[float, ...] = (0.376,)

    def __init__(
        self,
        batch_size: int = 64,
        validation_fraction: float = 0.0,
        seed: int = 0,
        image_size: int = 8,
        num_classes: int = 10,
        permutation: int | None = None,
    ) -> None:
        super().__init__(batch_size, validation_fraction, seed)
        if image_size < 8:
            raise UserError(f"image_size = {image_size} is below 8, the size of the digits")
        if not 2 <= num_classes <= 10:
            raise UserError(f"num_classes = {num_classes} is outside [2, 10]")
        self.image_shape = (1, image_size, image_size)
        self.num_classes = num_classes
        self.permutation = permutation

    @property
    def classes(self) -> list[str]:
        return [str(digit) for digit in range(self.num_classes)]

    def load(self, *, train: bool) -> Batch:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)  # 0 to 16
        images = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        part = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)[not train]
        part = part[labels[part] < self.num_classes]
        chosen, size = torch.from_numpy(images[part]), self.image_shape[1:]
        if size != (8, 8):
            chosen = functional.interpolate(chosen.float(), size, mode="bilinear").round().byte()
        return chosen, torch.from_numpy(labels[part])
