"""What every image data module has: its classes, its split, its batches as uint8 until they are on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lightning_subnets.datamodules.loader import Batch, EpochLoader
from lightning_subnets.datamodules.sampler import EpochSampler, generator
from lightning_subnets.errors import UserError


class ImageDataModule(LightningDataModule, ABC):
    """Batches of (images, labels): images uint8 (batch, channels, height, width), labels int64 (batch,).

    With a Trainer the images are normalised on the device, (x / 255 - mean) / std, before the step sees them.

    Args:
        batch_size: images per step and process.
        validation_fraction: the share of the training set held out for validation; at 0 validation is on the
            test set, the published protocol, which reports the last epoch's accuracy and chooses nothing by it.
        seed: of the order of the samples, of their augmentation and of the held-out share.

    Raises:
        ValueError: if an argument is out of range.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, int, int]

    def __init__(self, batch_size: int, validation_fraction: float, seed: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size} is below 1")
        if not 0.0 <= validation_fraction < 1.0:
            raise UserError(f"validation_fraction = {validation_fraction} is outside [0, 1)")
        self.batch_size, self.validation_fraction, self.seed = batch_size, validation_fraction, seed
        self._scaling: dict[torch.device, Batch] = {}

    @property
    @abstractmethod
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the labels."""

    @abstractmethod
    def batches(self, samples: Tensor | None, *, train: bool, augment: bool) -> EpochLoader:
        """Batches of the training or the test set; of these samples, or of all."""

    @property
    @abstractmethod
    def num_train(self) -> int:
        """The size of the whole training set, the held-out share included."""

    def train_dataloader(self) -> EpochLoader:
        # To overfit is to see the same few batches again and again.
        return self.batches(self.split()[0], train=True, augment=not getattr(self.trainer, "overfit_batches", 0))

    def val_dataloader(self) -> EpochLoader:
        if not self.validation_fraction:
            return self.test_dataloader()
        return self.batches(self.split()[1], train=True, augment=False)

    def test_dataloader(self) -> EpochLoader:
        return self.batches(None, train=False, augment=False)

    def predict_dataloader(self) -> EpochLoader:
        return self.test_dataloader()

    def split(self) -> tuple[Tensor, Tensor]:
        """The samples of the training set to train on and those held out, a function of the seed."""
        if not self.validation_fraction:
            return torch.arange(self.num_train), torch.arange(0)
        held_out = int(self.num_train * self.validation_fraction)
        if not held_out:
            raise UserError(
                f"validation_fraction = {self.validation_fraction} of {self.num_train} images holds out none: "
                f"at least {1 / self.num_train:.2g}, or 0 to validate on the test set"
            )
        order = torch.randperm(self.num_train, generator=generator(self.seed))
        return order[held_out:].sort().values, order[:held_out].sort().values

    def sampler(self, samples: Tensor, *, size: int, shuffle: bool) -> EpochSampler:
        """The sampler of this process: of its rank, where a Trainer has ranks."""
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return EpochSampler(samples, size=size, shuffle=shuffle, seed=self.seed, rank=rank, num_replicas=ranks)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, labels = batch
        return self.normalize(images), labels

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 to float32, (x / 255 - mean) / std by channel, on the images' device."""
        if images.device not in self._scaling:
            # Kept on the device: a copy from the host at every step would make the step wait for it.
            mean, std = torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)
            self._scaling[images.device] = ((255 * mean).to(images.device), (255 * std).to(images.device))
        mean, std = self._scaling[images.device]
        return (images - mean) / std
