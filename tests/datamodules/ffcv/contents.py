"""Shared by the tests of ``.beton`` files: images and labels to write, and the contents of a file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lightning_subnets.datamodules.ffcv import beton
from lightning_subnets.datamodules.ffcv.beton import Beton
from lightning_subnets.datamodules.ffcv.loader import FFCVLoader
from lightning_subnets.datamodules.ffcv.writer import Storage
from lightning_subnets.datamodules.image_files import Files, read_image
from lightning_subnets.datamodules.loader import Batch, EpochSampler

CLASSES = ["cat", "dog", "owl"]
PIXELS = Storage(longer_side=None, shorter_side=None, quality=90, raw_share=1.0)
MIXED = Storage(longer_side=None, shorter_side=None, quality=90, raw_share=0.5)


def noise_files(directory: Path, count: int, *, one_size: bool = False) -> Files:
    """Write small images of various sizes or of one; return their paths with labels that do not ascend."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    files = []
    for index in range(count):
        path = directory / f"{index:03d}.png"
        height, width = (20, 24) if one_size else (20 + 3 * index % 17, 24 + 5 * index % 19)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        files.append((str(path), (2 * index + 1) % 3))
    return files


def photographs_in(folder: Path) -> Files:
    """Return path and label of each photograph in a directory of classes, not in the order of the classes."""
    classes = sorted(path.name for path in folder.iterdir())
    paths = sorted(folder.glob("*/*"), key=lambda path: (path.name, path.parent.name))
    return [(str(path), classes.index(path.parent.name)) for path in paths]


def pixels_of(files: Files) -> list[NDArray[np.uint8]]:
    return [np.asarray(read_image(path)) for path, _ in files]


def stored(path: Path) -> list[NDArray[np.uint8]]:
    """Return the images of a file, decoded by Pillow."""
    content, table = path.read_bytes(), Beton.open(path)
    read = []
    for pointer, size, mode, height, width in zip(
        table.pointers, table.sizes, table.modes, table.heights, table.widths, strict=True
    ):
        part = content[pointer : pointer + size]
        if mode == beton.RAW:
            image = np.frombuffer(part, np.uint8).reshape(height, width, 3)
        else:
            image = np.asarray(Image.open(BytesIO(part)))
        assert image.shape == (height, width, 3)
        read.append(image)
    return read


def header(content: bytearray) -> NDArray[Any]:
    """Return the header of a file as a view, to change it; the next three functions return other parts."""
    return np.frombuffer(content, beton.HEADER, 1)


def samples(content: bytearray) -> NDArray[Any]:
    return np.frombuffer(content, beton.SAMPLE, header(content)["num_samples"][0], beton.HEAD_SIZE)


def images(content: bytearray) -> NDArray[Any]:
    field: NDArray[Any] = samples(content)["image"]
    return field


def allocations(content: bytearray) -> NDArray[Any]:
    return np.frombuffer(content, beton.ALLOCATION, offset=header(content)["allocations"][0])


def stream(
    table: Beton,
    *,
    batch_size: int = 4,
    size: int = 32,
    augment: bool = True,
    num_workers: int = 2,
    seed: int = 0,
    epoch: int = 0,
    count: int | None = None,
) -> FFCVLoader:
    """Return a loader of a file, by default as in training, of all samples or the first ``count``."""
    samples = torch.arange(len(table) if count is None else count)
    sampler = EpochSampler(samples, size=len(table), shuffle=augment, seed=seed)
    sampler.set_epoch(epoch)
    return FFCVLoader(table, sampler, batch_size, lambda _: size, augment, num_workers)


def joined(loader: FFCVLoader) -> Batch:
    """Return all images and labels of an epoch."""
    pixels, labels = zip(*loader, strict=True)
    return torch.cat(pixels), torch.cat(labels)
