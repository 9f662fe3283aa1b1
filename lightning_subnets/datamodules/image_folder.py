"""Photographs in a folder for each class, or in FFCV's files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_subnets.datamodules.crops import shorter_side
from lightning_subnets.datamodules.ffcv.beton import RAW, Beton
from lightning_subnets.datamodules.ffcv.loader import FFCVLoader, installed
from lightning_subnets.datamodules.image_files import Files, class_names, common_classes, image_paths, list_files
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.label_lists import find_list, list_labelled
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
        start_epoch: the last epoch of size ``start``, counted from 0; if it equals ``end_epoch``, the epoch before it.
        end_epoch: the first epoch of size ``end``, counted from 0; at least 1, unless the two sizes are equal.

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
        if self.start != self.end and self.end_epoch < 1:
            raise UserError(
                f"end_epoch = {self.end_epoch}, so every epoch would have {self.end} pixels and none {self.start}: set "
                "start_epoch and end_epoch, between which the size changes"
            )

    def __call__(self, epoch: int) -> int:
        if epoch >= self.end_epoch:
            return self.end
        if epoch <= self.start_epoch:
            return self.start
        share = (epoch - self.start_epoch) / (self.end_epoch - self.start_epoch)
        size = 32 * round((self.start + share * (self.end - self.start)) / 32)
        return max(min(self.start, self.end), min(size, max(self.start, self.end)))


class ImageFolder(ImageDataModule):
    """Your own photographs, in a folder for each class.

    ``root`` contains ``train/<class>/*`` and optionally ``val/<class>/*`` and ``test/<class>/*``. Validation is on
    ``val``, or without it on photographs of ``train`` that are held out. Without ``test``, the run is not tested.

    In training, a random part of 8 to 100 % of a photograph, of aspect 3:4 to 4:3, is scaled to the image size and
    mirrored at random. In evaluation, the shorter side is scaled to 256/224 of the image size and the centre is cut
    out. Order and crops are functions of (seed, epoch, sample), the same for both loaders.

    - ``folder`` reads the directories. The images of ``val`` may all be in it, with a list of labels in ``root``, see
      ``data/README.md``.
    - ``ffcv`` streams ``train.beton``, ``val.beton`` and ``test.beton``, of which ``data/prepare_imagenet.py`` writes
      the first two. ``val.beton`` stores photographs scaled for evaluation, so evaluation is exact to the pixel.

    Args:
        root: directory with the folders or files.
        loader: how photographs are read; null is ``ffcv`` if ``root`` contains ``train.beton``, otherwise ``folder``.
        train_dir: directory of the training images for the folder loader, relative to ``root``.
        val_dir: directory of the validation images for the folder loader, relative to ``root``.
        test_dir: directory of the test images for the folder loader, relative to ``root``.
        batch_size: images per step and process.
        image_size: height and width in pixels.
        train_size: size of the training images by epoch; null is ``image_size`` throughout.
        num_workers: threads (ffcv) or processes (folder) that decode; null divides the cores of the machine among its
            processes and leaves one core to each.
        validation_fraction: fraction of the training set that is held out if there is no ``val``. With ffcv, held-out
            photographs are evaluated as stored, scaled by OpenCV's area filter.
        mean: mean of each channel, of values in [0, 1]; by default ImageNet's.
        std: standard deviation of each channel; by default ImageNet's.
        seed: seed of the order of the samples, their augmentation and the held-out images.
        images: photographs for ``lightning predict`` instead of the test images: a file, or a folder without classes.
    """

    betons: ClassVar[dict[str, str]] = {"train": "train.beton", "val": "val.beton", "test": "test.beton"}
    required: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(
        self,
        root: str = "data/photographs",
        loader: Literal["ffcv", "folder"] | None = None,
        train_dir: str = "train",
        val_dir: str = "val",
        test_dir: str = "test",
        batch_size: int = 64,
        image_size: int = 224,
        train_size: Resizing | None = None,
        num_workers: int | None = None,
        validation_fraction: float = 0.1,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        seed: int = 0,
        images: str | None = None,
    ) -> None:
        super().__init__(batch_size, validation_fraction, seed)
        if not min(std) > 0:
            raise UserError(f"std = {list(std)} must be above 0 in every channel")
        self.images = images
        self.root, self.num_workers, self.mean, self.std = Path(root), num_workers, mean, std
        self.loader = loader or ("ffcv" if (self.root / "train.beton").is_file() else "folder")
        self.image_shape = (3, image_size, image_size)
        self.evaluation_size = Resizing(image_size, image_size)
        self.train_size = train_size or self.evaluation_size
        ffcv = self.loader == "ffcv"
        self.least_workers = 1 if ffcv else 0
        if num_workers is not None and num_workers < self.least_workers:
            raise UserError(
                f"num_workers = {num_workers}: the {self.loader} loader needs at least {self.least_workers}"
            )
        directories = {"train": train_dir, "val": val_dir, "test": test_dir}
        paths = {part: self.root / (beton if ffcv else directories[part]) for part, beton in self.betons.items()}
        self.parts = {part: path for part, path in paths.items() if (path.is_file() if ffcv else path.is_dir())}
        if absent := [paths[part] for part in self.required if part not in self.parts]:
            raise UserError(
                f"{self.root} lacks {' and '.join(path.name for path in absent)}: write them with "
                "data/prepare_imagenet.py, see data/README.md, or read a folder of images with --data.loader=folder; "
                "--data.root names another place"
                if ffcv
                else f"{absent[0]} does not exist: put one directory of images per class into "
                f"{' and '.join(str(paths[part]) for part in self.required)}, see data/README.md; --data.root names "
                "another place"
            )
        if ffcv and not installed():
            raise UserError(
                "FFCV is not installed: run data/install_ffcv.sh, or read a folder of images with --data.loader=folder"
            )
        self.has_test_set = "test" in self.parts
        if "val" in self.parts:
            self.validation_fraction = 0.0
        elif not validation_fraction and "val" in paths:
            raise UserError(
                f"validation_fraction = 0, and {paths['val']} does not exist: set the fraction of the training images "
                "to validate on, such as 0.1, because best.ckpt must not be chosen on the test set"
            )

    @property
    def preprocessing(self) -> dict[str, Any]:
        return super().preprocessing | {"resize": shorter_side(self.image_shape[-1])}

    @cached_property
    def _betons(self) -> list[Beton]:
        betons = [Beton.open(path) for path in self.parts.values()]
        for other in betons[1:]:
            if betons[0].classes != other.classes:
                raise UserError(
                    f"{betons[0].path} and {other.path} have different classes: write both again from one source"
                )
        return betons

    @cached_property
    def classes(self) -> list[str]:
        if self.loader == "ffcv":
            return self._betons[0].classes
        train, *others = self.parts.values()
        classes = common_classes(train, train)
        if len(classes) < 2:
            below = train / classes[0]
            instead = f", or set --data.train_dir={os.path.relpath(below, self.root)}" if class_names(below) else ""
            raise UserError(f"{train} has one class, {classes[0]}: put a directory for each class into it{instead}")
        for path in others:
            if not self._list(path, classes):
                common_classes(train, path)
        return classes

    def setup(self, stage: str) -> None:
        if hasattr(self, "sets") or (stage == "predict" and self.images):
            return
        self.sets: dict[str, Beton | Files]
        if self.loader == "folder":
            self.sets = {part: self._files(path) for part, path in self.parts.items()}
            return
        self.sets = dict(zip(self.parts, self._betons, strict=True))
        size = self.image_shape[-1]
        for beton in self._betons[1:]:
            if not ((np.minimum(beton.heights, beton.widths) == shorter_side(size)) & (beton.modes == RAW)).all():
                rank_zero_warn(
                    f"{beton.path} was not written for evaluation at {size} pixels: its photographs are scaled once "
                    f"more, or were compressed. data/prepare_imagenet.py --image_size={size} makes evaluation exact"
                )

    def _list(self, path: Path, classes: list[str]) -> Path | None:
        """Return the list of labels of the validation images, if they are not in directories of classes."""
        validated = self.parts.get("val", self.parts.get("test"))
        return find_list(self.root, path, classes) if path == validated else None

    def _files(self, path: Path) -> Files:
        labels = self._list(path, self.classes)
        return list_labelled(path, labels, self.classes) if labels else list_files(path, self.classes)

    @property
    def validated_on(self) -> str:
        return "validation set" if "val" in self.parts else super().validated_on

    @property
    def num_train(self) -> int:
        return len(self.sets["train"])

    def name_of(self, sample: int) -> str:
        data = self.sets["train"]
        if isinstance(data, Beton):  # which may be written again with other settings
            return f"{super().name_of(sample)} {data.labels[sample]}"
        return data[sample][0].removeprefix(str(self.parts["train"]))

    def train_dataloader(self) -> EpochLoader:
        sizes, trainer = self.train_size, self.trainer
        # A trial run is short on purpose, and overfit_batches trains on the size of evaluation.
        tried = getattr(trainer, "fast_dev_run", 0) or getattr(trainer, "overfit_batches", 0)
        epochs = trainer.max_epochs if trainer and sizes.start != sizes.end and not tried else None
        if epochs and 0 < epochs <= sizes.end_epoch:
            rank_zero_warn(
                f"training images have {sizes.end} pixels from epoch {sizes.end_epoch} on, and the run ends before it, "
                f"after {epochs} epochs: set --data.train_size.start_epoch and end_epoch for its length"
            )
        return super().train_dataloader()

    def val_dataloader(self) -> EpochLoader:
        return self._loader("val", None, augment=False) if "val" in self.parts else super().val_dataloader()

    def test_dataloader(self) -> EpochLoader:
        if not self.has_test_set:
            raise UserError(f"{self.root} has no test images: put one directory of images per class into its test/")
        return super().test_dataloader()

    def predict_dataloader(self) -> EpochLoader:
        if not self.images:
            return super().predict_dataloader()
        from lightning_subnets.datamodules.folder_loader import FolderLoader

        files = [(path, -1) for path in self.predicted_files]
        sampler = self.sampler(None, size=len(files), shuffle=False)
        return FolderLoader(files, sampler, self.batch_size, self.evaluation_size, False, self._workers())

    @cached_property
    def predicted_files(self) -> list[str]:
        """The photographs in ``images``; empty if the test images are predicted."""
        if not self.images:
            return []
        path = Path(self.images)
        files = [self.images] if path.is_file() else image_paths(path) if path.is_dir() else []
        if not files:
            raise UserError(f"{path} is neither an image nor a folder with images: name another with --data.images")
        return files

    def make_loader(self, samples: Tensor | None, *, train: bool, augment: bool) -> EpochLoader:
        return self._loader("train" if train else "test", samples, augment=augment)

    def _loader(self, part: str, samples: Tensor | None, *, augment: bool) -> EpochLoader:
        data = self.sets[part]
        sampler = self.sampler(samples, size=len(data), shuffle=augment)
        size = self.train_size if augment else self.evaluation_size
        make: Any = FFCVLoader
        if self.loader == "folder":
            from lightning_subnets.datamodules.folder_loader import FolderLoader

            make = FolderLoader
        return make(data, sampler, self.batch_size, size, augment, self._workers())  # type: ignore[no-any-return]

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return max(self.least_workers, suggested_max_num_workers(self.trainer.num_devices if self.trainer else 1))
