"""The base class of the image data modules."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lightning_subnets.datamodules.loader import Batch, EpochLoader, EpochSampler, generator
from lightning_subnets.errors import UserError


class ImageDataModule(LightningDataModule, ABC):
    """Batches of (images, labels): images uint8 (batch, channels, height, width), labels int64 (batch,).

    A Trainer gets the images normalised, (x / 255 - mean) / std by channel; this happens on the device.

    Args:
        batch_size: images per step and process.
        validation_fraction: fraction of the training set that is held out for validation. With 0, validation is on the
            test set, as in the papers, which report the last epoch and select no epoch by its accuracy.
        seed: seed of the order of the samples, their augmentation and the held-out images.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, int, int]
    has_test_set = True
    permutation: int | None = None  # the seed of a fixed order of the pixels; None leaves them where they are

    def __init__(self, batch_size: int, validation_fraction: float, seed: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size} is below 1")
        if not 0.0 <= validation_fraction < 1.0:
            raise UserError(f"validation_fraction = {validation_fraction} is outside [0, 1)")
        self.batch_size, self.validation_fraction, self.seed = batch_size, validation_fraction, seed
        self._scaling: dict[torch.device, Batch] = {}
        self._orders: dict[torch.device, Tensor] = {}
        self.allow_zero_length_dataloader_with_multiple_devices = True  # to predict fewer images than there are ranks

    @property
    @abstractmethod
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the labels."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What another program has to do with an image, in the form of a ``.subnet`` file's header."""
        stated = {"input_shape": list(self.image_shape), "mean": list(self.mean), "std": list(self.std)}
        if self.permutation is not None:
            stated["permutation"] = self._order(self.image_shape[1] * self.image_shape[2]).tolist()
        return stated

    @property
    def validated_on(self) -> str:
        """The images on which ``best.ckpt`` is chosen; the test set only where a published protocol does so."""
        return "held-out images" if self.validation_fraction else "test set"

    @property
    @abstractmethod
    def num_train(self) -> int:
        """The number of training images, including those held out."""

    @abstractmethod
    def make_loader(self, samples: Tensor | None, *, train: bool, augment: bool) -> EpochLoader:
        """Return a loader of these samples (None: all) of the training or the test set."""

    def train_dataloader(self) -> EpochLoader:
        # overfit_batches repeats the same few batches.
        augment = not getattr(self.trainer, "overfit_batches", 0)
        return self.make_loader(self.split()[0], train=True, augment=augment)

    def val_dataloader(self) -> EpochLoader:
        if not self.validation_fraction:
            return self.test_dataloader()
        return self.make_loader(self.split()[1], train=True, augment=False)

    def test_dataloader(self) -> EpochLoader:
        return self.make_loader(None, train=False, augment=False)

    def predict_dataloader(self) -> EpochLoader:
        return self.test_dataloader()

    def split(self) -> tuple[Tensor, Tensor]:
        """Return the indices of the training images to train on, and of those held out, as a function of the seed."""
        if not self.validation_fraction:
            return torch.arange(self.num_train), torch.arange(0)
        held_out = int(self.num_train * self.validation_fraction)
        if not held_out:
            raise UserError(
                f"validation_fraction = {self.validation_fraction} of {self.num_train} images holds out none: set at "
                f"least {1 / self.num_train:.2g}, or 0 to validate on the test set"
            )
        order = torch.randperm(self.num_train, generator=generator(self.seed))
        return order[held_out:].sort().values, order[:held_out].sort().values

    def name_of(self, sample: int) -> str:
        """Return what tells a training image from the others, without reading it."""
        return f"{sample} of {self.num_train}"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint states about the data: the classes, and which of the training images were held out."""
        names = "\0".join(map(self.name_of, self.split()[1].tolist()))
        digest = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest() if names else ""
        return {"classes": list(map(str, self.classes)), "num_train": self.num_train, "held_out": digest}

    def check_identity(self, theirs: Mapping[str, Any], *, validates: bool) -> None:
        """Check that these are the data of a checkpoint, by the ``identity`` in it.

        Raises:
            ValueError: if the classes differ, or if it ``validates`` on held-out images and others were held out.
        """
        self.check_classes(theirs["classes"])
        if validates and self.validation_fraction and self.identity["held_out"] != theirs["held_out"]:
            raise UserError(
                f"the run has trained on some of the images that would be held out now: it had {theirs['num_train']} "
                f"training images and there are {self.num_train}, or a name, the seed, the loader or "
                "validation_fraction has changed. Restore them, or begin another run"
            )

    def check_classes(self, learned: Sequence[str]) -> None:
        """Check that no class that a network has learned has another number here; other names for all may be right.

        Raises:
            ValueError: naming the first class that has.
        """
        ours = {str(name): label for label, name in enumerate(self.classes)}
        for label, name in enumerate(learned):
            if ours.get(name, label) != label:
                raise UserError(
                    f"the network has learned {name!r} as class {label}, and in the data it is class {ours[name]}: "
                    "give the directories of the classes the names that they had, or train another network"
                )

    def sampler(self, samples: Tensor | None, *, size: int, shuffle: bool) -> EpochSampler:
        """Return this rank's sampler of these samples (None: all) of a data set of ``size`` samples.

        Raises:
            ValueError: if a rank would have no sample to train on or to evaluate.
        """
        samples = torch.arange(size) if samples is None else samples
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.trainer and len(samples) < ranks and not self.trainer.predicting:
            raise UserError(
                f"{len(samples)} images are too few for {ranks} processes: start at most {len(samples)}, with "
                "--trainer.devices and --trainer.num_nodes"
            )
        return EpochSampler(samples, size=size, shuffle=shuffle, seed=self.seed, rank=rank, num_replicas=ranks)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, labels = batch
        return self.normalize(images), labels

    def normalize(self, images: Tensor) -> Tensor:
        """Return (x / 255 - mean) / std by channel, float32, of uint8 images, on their device.

        The pixels of each channel are permuted, if the data have a ``permutation``.
        """
        if images.device not in self._scaling:
            # Keep mean and std on the device, because a copy from the host would stall every step.
            mean, std = torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)
            self._scaling[images.device] = ((255 * mean).to(images.device), (255 * std).to(images.device))
        mean, std = self._scaling[images.device]
        scaled = (images - mean) / std
        if self.permutation is None:
            return scaled
        pixels = scaled.flatten(2)
        if images.device not in self._orders:
            self._orders[images.device] = self._order(pixels.shape[2]).to(images.device)
        return pixels[:, :, self._orders[images.device]].view_as(scaled)

    def _order(self, pixels: int) -> Tensor:
        """Return for each pixel the place that it is taken from; the data have a ``permutation``."""
        assert self.permutation is not None
        return torch.randperm(pixels, generator=generator(self.permutation))
