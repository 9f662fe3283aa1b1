"""A folder of images made into ``.beton`` files: resized once, so that they are read fast ever after."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_subnets.datamodules.crops import shorter_side
from lightning_subnets.datamodules.ffcv import beton
from lightning_subnets.datamodules.ffcv.layouts import find_images
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.writer import Storage, write
from lightning_subnets.errors import UserError


def prepare(
    out: Path = Path("data/imagenet"),
    source: Path | None = None,
    train: str = "train",
    val: str = "val",
    val_labels: Path | None = None,
    longer_side: int = 500,
    quality: int = 90,
    raw_share: float = 0.0,
    image_size: int = 224,
    val_raw_share: float = 1.0,
    skip_bad: bool = False,
    num_workers: int | None = None,
    verify: bool = False,
) -> None:
    """Write ``train.beton`` and ``val.beton`` from a folder of images, or verify them.

    A file appears under its name only once it is whole. Beside each stands a ``.json`` with its classes, counts,
    settings and digests. Files that are there already, of the same images and settings, are kept.

    Args:
        out: directory of the two files.
        source: directory with ``train/<class>/`` and ``val/<class>/``, or ``val/`` and a list of its labels.
        train: the training images' directory, from the source.
        val: the validation images' directory, from the source.
        val_labels: the list of labels of validation images that are not in directories of classes; by default the
            one of ImageNet's development kit, of Kaggle or of Tiny ImageNet where it lies in the source.
        longer_side: of a training image, in pixels, at most.
        quality: of JPEG, 1 to 100.
        raw_share: of the training images, stored as pixels: faster to read, more disk.
        image_size: that will be evaluated at, in pixels; validation images are scaled for it here, exactly as
            torchvision does.
        val_raw_share: of the validation images, stored as pixels; below 1 evaluation is not exact to the pixel.
        skip_bad: leave images out that cannot be read, rather than stop.
        num_workers: threads; null takes all cores.
        verify: compare the files in ``out`` with their digests instead, every byte of them.
    """
    if verify:
        for name in ("train.beton", "val.beton"):
            beton.verify(out / name)
            print(f"{out / name} is as it was written")
        return
    if source is None:
        raise UserError("--source is missing: the directory with the images to prepare")
    for name, value, low, high in (
        ("longer_side", longer_side, 1, 1600),  # an image of 3 bytes a pixel fits into a page
        ("quality", quality, 1, 100),
        ("raw_share", raw_share, 0, 1),
        ("val_raw_share", val_raw_share, 0, 1),
        ("image_size", image_size, 1, 1400),
        ("num_workers", num_workers or 1, 1, 1024),
    ):
        if not low <= value <= high:
            raise UserError(f"{name} = {value} is outside [{low}, {high}]")
    if not installed():
        raise UserError("FFCV is not installed: run data/install_ffcv.sh")
    classes, train_files, val_files = find_images(source, train, val, val_labels)
    workers = num_workers or len(os.sched_getaffinity(0))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made: {error.strerror}") from error
    train_storage = Storage(longer_side, None, quality, raw_share)
    val_storage = Storage(None, shorter_side(image_size), quality, val_raw_share)
    write(out / "train.beton", train_files, classes, train_storage, skip_bad=skip_bad, num_workers=workers)
    write(out / "val.beton", val_files, classes, val_storage, skip_bad=skip_bad, num_workers=workers)
