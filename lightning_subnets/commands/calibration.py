"""Images to calibrate eight-bit activations with: the training images of a run or a ``.subnet`` file, or a folder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from lightning_subnets import datamodules
from lightning_subnets.datamodules.image_files import image_paths, read_image
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import generator
from lightning_subnets.errors import UserError
from lightning_subnets.progress_bar import progress
from lightning_subnets.run_files.saved_config import data_of_file
from lightning_subnets.run_files.saved_run import SavedRun
from lightning_subnets.subnet_file.container import Container

COUNT = 512
LARGEST = 2**28  # numbers in all images together, 1 GiB
LONGEST_SIDE = 4096  # pixels that the shorter side of a photograph may be scaled to


@dataclass(frozen=True)
class Calibration:
    """Normalised images, (images, channels, height, width), and what they are."""

    images: Tensor
    source: str


def of_file(file: Container, path: str) -> Calibration:
    """Return training images of the data that a ``.subnet`` file names, as ``of_run`` does.

    Raises:
        ValueError: if the file names no data of this package, or its data are not on this machine.
    """
    try:
        kind, arguments = data_of_file(file, path)
    except UserError as error:
        raise UserError(
            f"{path} does not say which images it was trained on: name a folder of such images with --calibrate"
        ) from error
    try:
        data: ImageDataModule = getattr(datamodules, kind)(**arguments)
        _set_up(data)
    except Exception as error:  # arguments from a file may be of any type
        raise UserError(
            f"the training images that {path} names are not here: name a folder of images like them with --calibrate"
        ) from error
    return _training_images(data)


def of_run(run: SavedRun) -> Calibration:
    """Return up to 512 training images of a run without augmentation, drawn with the seed of the data."""
    data = run.data()
    _set_up(data)
    return _training_images(data)


def of_folder(folder: str, preprocessing: dict[str, Any], shape: tuple[int, ...]) -> Calibration:
    """Return up to 512 images of a folder, drawn at random, and preprocessed as a ``.subnet`` file states.

    Photographs are scaled and their centre is cut out. Other images must have the size of the network's.

    Raises:
        ValueError: if the folder has no images, one cannot be read or has another size, or the normalisation is
            unknown.
    """
    mean, std = (preprocessing.get(name) for name in ("mean", "std"))
    if not (shape and _is_scaling(mean, shape) and _is_scaling(std, shape) and min(std) > 0):
        raise UserError(
            f"how images are normalised is unknown, so {folder} cannot calibrate: export the run itself, or a .subnet "
            "file that was exported from it"
        )
    paths = image_paths(Path(folder)) if Path(folder).is_dir() else []
    if not paths:
        raise UserError(f"--calibrate={folder} is not a folder of images: name one with 256 to 512 of them")
    if shape[0] not in (1, 3):
        raise UserError(
            f"--calibrate reads images of 1 or 3 channels, and those of the network have {shape[0]}: leave out --int8"
        )
    resize = preprocessing.get("resize")
    if resize is not None and (type(resize) is not int or not 0 < resize <= LONGEST_SIDE):
        raise UserError(
            f"the network's photographs are scaled to {resize!r:.60} pixels, expected 1 to {LONGEST_SIDE}, so {folder} "
            "cannot calibrate: leave out --int8"
        )
    chosen = [paths[index] for index in _drawn(torch.arange(len(paths)), 0, shape).tolist()]
    pixels = torch.stack([_pixels(path, shape, resize) for path in progress(chosen, "reading images")])
    shift, scale = (255 * torch.tensor(each, dtype=torch.float32).view(-1, 1, 1) for each in (mean, std))
    images = (pixels - shift) / scale
    if order := preprocessing.get("permutation"):
        if len(order) != shape[1] * shape[2]:
            raise UserError(
                f"the network takes the {len(order)} pixels of an image in another order, and --input_shape is "
                f"{'x'.join(map(str, shape))}: leave it out"
            )
        images = images.flatten(2)[:, :, order].view_as(images)
    return Calibration(images, f"{len(images)} images of {folder}")


def _set_up(data: ImageDataModule) -> None:
    data.prepare_data()
    data.setup("fit")


def _training_images(data: ImageDataModule) -> Calibration:
    loader = data.make_loader(_drawn(data.split()[0], data.seed, data.image_shape), train=True, augment=False)
    images = torch.cat([data.normalize(batch) for batch, _ in loader])
    return Calibration(images, f"{len(images)} training images of {type(data).__name__}")


def _drawn(samples: Tensor, seed: int, shape: tuple[int, ...]) -> Tensor:
    order = torch.randperm(len(samples), generator=generator(seed))
    count = min(COUNT, max(1, LARGEST // math.prod(shape)))
    return samples[order[:count].sort().values]


def _is_scaling(values: Any, shape: tuple[int, ...]) -> TypeGuard[list[float]]:
    is_list = isinstance(values, list) and len(values) == shape[0]
    # An integer in a file may be too large for a float.
    return is_list and all(type(each) in (int, float) and abs(each) < 2**31 for each in values)


def _pixels(path: str, shape: tuple[int, ...], resize: int | None) -> Tensor:
    """Return an image as uint8 (channels, height, width)."""
    from torchvision.transforms.v2 import functional

    channels, height, width = shape
    image = read_image(path)
    if resize is not None:
        image = functional.center_crop(functional.resize(image, [resize]), [height, width])
    if image.size != (width, height):
        raise UserError(
            f"{path} is {image.width}x{image.height} pixels; the network's images are {width}x{height}: calibrate with "
            "images of that size"
        )
    pixels = np.asarray(image.convert("L") if channels == 1 else image)
    return torch.from_numpy(pixels.copy()).view(height, width, channels).permute(2, 0, 1)
