"""ImageNet, by its published protocol."""

from __future__ import annotations

from typing import ClassVar, Literal

from lightning_subnets.datamodules.image_folder import ImageFolder, Resizing


class ImageNet(ImageFolder):
    """ImageNet, or photographs with the same layout, validated and tested on ``val`` as published.

    It is ``ImageFolder`` with the files ``train.beton`` and ``val.beton``, or the folders ``train`` and ``val``, and
    without ``test``, because the labels of ImageNet's test set were never published.

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
            published.
        seed: seed of the order of the samples, their augmentation and the held-out images.
        images: photographs for ``lightning predict`` instead of the test images: a file, or a folder without classes.

    Source: Russakovsky et al. 2015; the protocol of Goyal et al. 2017.
    """

    betons: ClassVar = {"train": "train.beton", "test": "val.beton"}
    required: ClassVar = ("train", "test")

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
        images: str | None = None,
    ) -> None:
        super().__init__(
            root,
            loader,
            train_dir,
            test_dir=val_dir,
            batch_size=batch_size,
            image_size=image_size,
            train_size=train_size,
            num_workers=num_workers,
            validation_fraction=validation_fraction,
            seed=seed,
            images=images,
        )
