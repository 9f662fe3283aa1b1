"""Handwritten digits that come with scikit-learn: real data on every machine."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

from lightning_subnets.datamodules.in_memory import InMemoryDataModule
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.errors import UserError


class Digits(InMemoryDataModule):
    """1,797 handwritten digits of 8x8 pixels, 1,437 to train on and 360 to test, each class in proportion.

    Args:
        batch_size: images per step and process.
        validation_fraction: the share of the training set held out; at 0 validation is on the test set.
        seed: of the order of the samples.
        image_size: height and width in pixels; larger images are the same ones, interpolated linearly, for networks
            that halve their image more often than 8 pixels allow.
        num_classes: the digits from 0 that there are images of.

    Raises:
        ValueError: if images would be smaller than 8 pixels, or there are not 2 to 10 classes.
    Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository, its test set.
    """

    mean, std = (0.305,), (0.376,)

    def __init__(
        self,
        batch_size: int = 64,
        validation_fraction: float = 0.0,
        seed: int = 0,
        image_size: int = 8,
        num_classes: int = 10,
    ) -> None:
        super().__init__(batch_size, validation_fraction, seed)
        if image_size < 8:
            raise UserError(f"image_size = {image_size} is below the 8 pixels that the digits have")
        if not 2 <= num_classes <= 10:
            raise UserError(f"num_classes = {num_classes} is not 2 to 10, of ten digits")
        self.image_shape = (1, image_size, image_size)
        self.num_classes = num_classes

    @property
    def classes(self) -> list[str]:
        return [str(digit) for digit in range(self.num_classes)]

    def load(self, *, train: bool) -> Batch:
        pixels, labels = load_digits(return_X_y=True)  # 0 to 16
        images = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        part = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)[not train]
        part = part[labels[part] < self.num_classes]
        pictures, size = torch.from_numpy(images[part]), self.image_shape[1:]
        if size != (8, 8):
            pictures = functional.interpolate(pictures.float(), size, mode="bilinear").round().byte()
        return pictures, torch.from_numpy(labels[part])
