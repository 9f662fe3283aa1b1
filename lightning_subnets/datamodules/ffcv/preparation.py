"""``.beton`` files from a folder of images: resized once, then fast to read."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_subnets.datamodules.crops import shorter_side
from lightning_subnets.datamodules.ffcv import beton
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.writer import Storage, check, write
from lightning_subnets.datamodules.label_lists import find_images
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

    A file gets its name only once it is whole. A ``.json`` beside it holds its classes, counts, settings and digests.
    Existing files are kept if names and sizes of the images, and the settings, are the same.

    Args:
        out: directory of the two files.
        source: directory with ``train/<class>/`` and ``val/<class>/``, or with ``val/`` and a list of its labels.
        train: directory of the training images, relative to the source.
        val: directory of the validation images, relative to the source.
        val_labels: list of labels of validation images that are not in directories of classes; by default a list in
            the source from ImageNet's development kit, Kaggle, Caffe or Tiny ImageNet.
        longer_side: longer side of a training image in pixels, at most.
        quality: JPEG quality, 1 to 100.
        raw_share: fraction of the training images that is stored as pixels: faster to read, more disk.
        image_size: size of the images in evaluation, in pixels; validation images are scaled for it here, exactly as
            torchvision scales them.
        val_raw_share: fraction of the validation images that is stored as pixels; below 1, evaluation is not exact.
        skip_bad: leave out unreadable images instead of stopping.
        num_workers: threads; null takes all cores, and so does 0.
        verify: instead of writing, compare every byte of the files in ``out`` with their digests.
    """
    if verify:
        for name in ("train.beton", "val.beton"):
            beton.verify(out / name)
            print(f"{out / name} is as it was written")
        return
    if source is None:
        raise UserError("--source is missing: set it to the directory with the images")
    for name, value, low, high in (
        ("longer_side", longer_side, 1, 1600),  # so that an image of 3 bytes a pixel fits into a page
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
        raise UserError(f"{out} cannot be created: {error.strerror}") from error
    contents = (
        (out / "train.beton", train_files, classes, Storage(longer_side, None, quality, raw_share)),
        (out / "val.beton", val_files, classes, Storage(None, shorter_side(image_size), quality, val_raw_share)),
    )
    for each in contents:  # before the first is written, which takes long
        check(*each, skip_bad=skip_bad)
    for each in contents:
        write(*each, skip_bad=skip_bad, num_workers=workers)
