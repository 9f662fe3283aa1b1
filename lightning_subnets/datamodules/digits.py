"""Handwritten digits that come with scikit-learn: real data on every machine."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lightning_subnets.datamodules.in_memory import InMemoryDataModule
from lightning_subnets.datamodules.loader import Batch


class Digits(InMemoryDataModule):
    """1,797 handwritten digits of 8x8 pixels, 1,437 to train on and 360 to test, each class in proportion.

    Args:
        batch_size: images per step and process.
        validation_fraction: the share of the training set held out; at 0 validation is on the test set.
        seed: of the order of the samples.

    Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository, its test set.
    """

    mean, std = (0.305,), (0.376,)
    image_shape = (1, 8, 8)

    def __init__(self, batch_size: int = 64, validation_fraction: float = 0.0, seed: int = 0) -> None:
        super().__init__(batch_size, validation_fraction, seed)

    @property
    def classes(self) -> list[str]:
        return [str(digit) for digit in range(10)]

    def load(self, *, train: bool) -> Batch:
        pixels, labels = load_digits(return_X_y=True)  # 0 to 16
        images = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        part = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)[not train]
        return torch.from_numpy(images[part]), torch.from_numpy(labels[part])
