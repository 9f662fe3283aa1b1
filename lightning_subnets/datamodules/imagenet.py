"""ImageNet, from FFCV's files or from a folder of images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_subnets.datamodules.crops import shorter_side
from lightning_subnets.datamodules.ffcv.beton import RAW, Beton
from lightning_subnets.datamodules.ffcv.loader import FFCVLoader, installed
from lightning_subnets.datamodules.image_files import Files, common_classes, list_files
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import EpochLoader
from lightning_subnets.errors import UserError


@dataclass(frozen=True)
class Resizing:
    """Height and width of the training images by epoch: one size, a ramp, another size.

    The size is ``start`` up to ``start_epoch`` and ``end`` from ``end_epoch``. In between it is linear in the epoch,
    rounded to a multiple of 32 and clipped to the two sizes.

    Args:
        start: size of the early epochs in pixels.
        end: size of the late epochs in pixels.
        start_epoch: the last epoch of size ``start``, counted from 0.
        end_epoch: the first epoch of size ``end``, counted from 0.

    Source: Howard 2018, "Training Imagenet in 3 hours for 25 minutes"; the ramp of Leclerc et al. 2023 (FFCV).
    """

    start: int
    end: int
    start_epoch: int = 0
    end_epoch: int = 0

    def __post_init__(self) -> None:
        if min(self.start, self.end) < 1:
            raise UserError(f"start = {self.start} and end = {self.end} must be at least 1 pixel")
        if self.start_epoch > self.end_epoch:
            raise UserError(f"end_epoch = {self.end_epoch} is before start_epoch = {self.start_epoch}")

    def __call__(self, epoch: int) -> int:
        if epoch >= self.end_epoch:
            return self.end
        if epoch <= self.start_epoch:
            return self.start
        share = (epoch - self.start_epoch) / (self.end_epoch - self.start_epoch)
        size = 32 * round((self.start + share * (self.end - self.start)) / 32)
        return max(min(self.start, self.end), min(size, max(self.start, self.end)))


class ImageNet(ImageDataModule):
    """Photographs: ImageNet, or any data set with the same layout.

    In training, a random part of 8 to 100 % of a photograph, of aspect 3:4 to 4:3, is scaled to the image size and
    mirrored at random. In evaluation, the shorter side is scaled to 256 and the central 224 pixels are cut out. Order
    and crops are functions of (seed, epoch, sample), the same for both loaders.

    - ``ffcv`` streams ``train.beton`` and ``val.beton``, which ``data/prepare_imagenet.py`` writes from a folder.
      ``val.beton`` stores photographs already scaled for evaluation, so evaluation is exact to the pixel.
    - ``folder`` reads ``train/<class>/*`` and ``val/<class>/*``.

    Args:
        root: directory with the files or folders.
        loader: how photographs are read.
        train_dir: directory of the training images for the folder loader, relative to ``root``.
        val_dir: directory of the validation images for the folder loader, relative to ``root``.
        batch_size: images per step and process.
        image_size: height and width in pixels; evaluation scales the shorter side to 256/224 of it.
        train_size: size of the training images by epoch; null is ``image_size`` throughout.
        num_workers: threads (ffcv) or processes (folder) that decode; null divides the cores of the machine among its
            processes and leaves one core to each.
        validation_fraction: fraction of the training set that is held out; with 0, validation is on ``val``, as
            published. With ffcv, held-out photographs are evaluated as stored, scaled by OpenCV's area filter.
        seed: seed of the order of the samples, their augmentation and the held-out images.

    Source: Russakovsky et al. 2015; the protocol of Goyal et al. 2017.
    """

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(
        self,
        root: str = "data/imagenet",
        loader: Literal["ffcv", "folder"] = "ffcv",
        train_dir: str = "train",
        val_dir: str = "val",
        batch_size: int = 256,
        image_size: int = 224,
        train_size: Resizing | None = None,
        num_workers: int | None = None,
        validation_fraction: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, validation_fraction, seed)
        self.root, self.loader, self.num_workers = Path(root), loader, num_workers
        self.train_dir, self.val_dir = self.root / train_dir, self.root / val_dir
        self.image_shape = (3, image_size, image_size)
        self.evaluation_size = Resizing(image_size, image_size)
        self.train_size = train_size or self.evaluation_size
        self.least_workers = 1 if loader == "ffcv" else 0
        if num_workers is not None and num_workers < self.least_workers:
            raise UserError(f"num_workers = {num_workers}: the {loader} loader needs at least {self.least_workers}")
        if loader == "folder":
            if absent := [folder for folder in (self.train_dir, self.val_dir) if not folder.is_dir()]:
                raise UserError(
                    f"{absent[0]} does not exist: put one directory of images per class into {self.root}/train and "
                    f"{self.root}/val, see data/README.md; --data.root names another place"
                )
        elif missing := [name for name in ("train.beton", "val.beton") if not (self.root / name).is_file()]:
            raise UserError(
                f"{self.root} lacks {' and '.join(missing)}: write them with data/prepare_imagenet.py, see "
                "data/README.md, or read a folder of images with --data.loader=folder; --data.root names another place"
            )
        elif not installed():
            raise UserError(
                "FFCV is not installed: run data/install_ffcv.sh, or read a folder of images with --data.loader=folder"
            )

    @cached_property
    def _betons(self) -> tuple[Beton, Beton]:
        train, val = Beton.open(self.root / "train.beton"), Beton.open(self.root / "val.beton")
        if train.classes != val.classes:
            raise UserError(f"{train.path} and {val.path} have different classes: write both again from one source")
        return train, val

    @cached_property
    def classes(self) -> list[str]:
        return self._betons[0].classes if self.loader == "ffcv" else common_classes(self.train_dir, self.val_dir)

    def setup(self, stage: str) -> None:
        if hasattr(self, "train_set"):
            return
        self.train_set: Beton | Files
        self.val_set: Beton | Files
        if self.loader == "folder":
            self.train_set, self.val_set = (list_files(path, self.classes) for path in (self.train_dir, self.val_dir))
            return
        self.train_set, self.val_set = _, val = self._betons
        size = self.image_shape[-1]
        if not ((np.minimum(val.heights, val.widths) == shorter_side(size)) & (val.modes == RAW)).all():
            rank_zero_warn(
                f"{val.path} was not written for evaluation at {size} pixels: its photographs are scaled once more, or "
                f"were compressed. data/prepare_imagenet.py --image_size={size} makes evaluation exact"
            )

    @property
    def num_train(self) -> int:
        return len(self.train_set)

    def make_loader(self, samples: Tensor | None, *, train: bool, augment: bool) -> EpochLoader:
        data = self.train_set if train else self.val_set
        sampler = self.sampler(samples, size=len(data), shuffle=augment)
        size = self.train_size if augment else self.evaluation_size
        make: Any = FFCVLoader
        if self.loader == "folder":
            from lightning_subnets.datamodules.folder_loader import FolderLoader

            make = FolderLoader
        workers = self.num_workers
        if workers is None:
            processes = self.trainer.num_devices if self.trainer else 1
            workers = max(self.least_workers, suggested_max_num_workers(processes))
        return make(data, sampler, self.batch_size, size, augment, workers)  # type: ignore[no-any-return]
