"""ImageNet from a folder of images."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lightning_subnets.datamodules.images import Batch, ImageDataModule, common_classes, list_files, read_image
from lightning_subnets.datamodules.sampler import generator
from lightning_subnets.errors import UserError


class ImageNet(ImageDataModule):
    """Photographs in ``train/<class>/*`` and ``val/<class>/*``; ImageNet, or any data set laid out as it is.

    To train, a random part of 8 to 100 % of a photograph, of aspect 3:4 to 4:3, is scaled to the image size and
    mirrored at random. To evaluate, the shorter side is scaled to 256 and the centre of 224 pixels is cut out.

    Args:
        root: directory with the two below.
        train_dir: the training set's directory, from ``root``.
        val_dir: the validation set's directory, from ``root``.
        batch_size: images per step and process.
        image_size: height and width in pixels; evaluation scales the shorter side to 256/224 of it.
        num_workers: processes that decode; None takes the cores there are, shared among the processes of a node,
            and leaves one to each of those.
        validation_fraction: the share of the training set held out; at 0 validation is on ``val``, as published.
        seed: of the order of the samples and of their augmentation.

    Raises:
        ValueError: if a directory is missing or empty, the two have different classes, or an image is unreadable.
    Source: Russakovsky et al. 2015; the protocol of Goyal et al. 2017.
    """

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(
        self,
        root: str = "data/imagenet",
        train_dir: str = "train",
        val_dir: str = "val",
        batch_size: int = 256,
        image_size: int = 224,
        num_workers: int | None = None,
        validation_fraction: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, validation_fraction, seed)
        self.train_dir, self.val_dir = Path(root, train_dir), Path(root, val_dir)
        self.image_shape = (3, image_size, image_size)
        self.num_workers = num_workers
        for folder in (self.train_dir, self.val_dir):
            if not folder.is_dir():
                raise UserError(
                    f"{folder} does not exist. ImageNet goes into {root}/train/<class>/ and {root}/val/<class>/, one "
                    "directory of images per class: data/README.md says how to make them, --data.root names another "
                    "place"
                )

    @cached_property
    def classes(self) -> list[str]:
        return common_classes(self.train_dir, self.val_dir)

    def setup(self, stage: str) -> None:
        if not hasattr(self, "train_set"):
            self.train_set = list_files(self.train_dir, self.classes)
            self.val_set = list_files(self.val_dir, self.classes)

    @property
    def num_train(self) -> int:
        return len(self.train_set)

    def batches(self, samples: Tensor | None, *, train: bool, augment: bool) -> Iterable[Batch]:
        files = self.train_set if train else self.val_set
        size = self.image_shape[-1]
        transform = v2.Compose(
            [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()]
            if augment
            else [v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size), v2.PILToTensor()]
        )
        samples = torch.arange(len(files)) if samples is None else samples
        workers = self._workers()
        return DataLoader(
            _Photographs(files, transform, self.seed),
            batch_size=self.batch_size,
            sampler=self.sampler(samples, size=len(files), shuffle=augment),
            num_workers=workers,
            generator=generator(self.seed),  # or each loader would move the global one
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return suggested_max_num_workers(self.trainer.num_devices if self.trainer else 1)


class _Photographs(Dataset[tuple[Tensor, int]]):
    """The files of a folder by ``EpochSampler``'s keys; an augmentation is a function of (seed, epoch, sample)."""

    def __init__(self, files: list[tuple[str, int]], transform: v2.Compose, seed: int) -> None:
        self.files, self.transform, self.seed = files, transform, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: int) -> tuple[Tensor, int]:
        path, label = self.files[key % len(self.files)]
        # torchvision's transforms draw from the global generator, which is put back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator(self.seed, key).get_state())
            return self.transform(read_image(path)), label
