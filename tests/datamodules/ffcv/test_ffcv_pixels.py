"""The pixels from a ``.beton`` file are those of OpenCV, torchvision and the folder loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contents import stream
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_subnets.datamodules import ImageNet
from lightning_subnets.datamodules.crops import central_crops, random_crops
from lightning_subnets.datamodules.ffcv.beton import JPEG, RAW, Beton
from lightning_subnets.datamodules.ffcv.loader import imported, installed
from lightning_subnets.datamodules.ffcv.writer import Storage, write
from lightning_subnets.datamodules.loader import EpochLoader

cv2 = pytest.importorskip("cv2")  # comes with FFCV
pytestmark = pytest.mark.skipif(not installed(), reason="FFCV is not installed: data/install_ffcv.sh")

Pixels = NDArray[np.uint8]


def loaded(loader: EpochLoader) -> dict[int, Pixels]:
    """Return the images of an epoch by their keys, each (height, width, 3)."""
    images = torch.cat([images for images, _ in loader]).permute(0, 2, 3, 1).numpy()
    return dict(zip(loader.sampler.keys().tolist(), images, strict=True))


def whole(table: Beton, sample: int) -> Pixels:
    """Return the pixels of an image in its file."""
    stored: Pixels = np.fromfile(table.path, np.uint8, table.sizes[sample], offset=table.pointers[sample])
    if table.modes[sample] == JPEG:
        return by_ffcv(stored)
    return stored.reshape(table.heights[sample], table.widths[sample], 3)


def by_ffcv(jpeg: Pixels) -> Pixels:
    """Decode like FFCV, by libjpeg-turbo with its faster, less accurate cosine transform."""
    by_opencv: Pixels = cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    height, width, _ = by_opencv.shape
    pixels = np.empty((height, width, 3), np.uint8)
    assert imported("ffcv.libffcv").imdecode(jpeg, pixels, height, width, height, width, 0, 0, 1, 1, False, False) == 0
    # At quality 90 the difference is at most 6 of 255, measured on noise, checkerboards, smooth pictures and
    # photographs. A different channel order or picture differs by tens.
    difference = abs(pixels.astype(int) - by_opencv)
    assert difference.mean() < 2
    assert difference.max() <= 8
    return pixels


def cut(image: Pixels, crop: NDArray[np.int64], size: int) -> Pixels:
    top, left, height, width, mirrored = crop.tolist()
    part = image[top : top + height, left : left + width]
    scaled: Pixels = cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA)
    return scaled[:, ::-1] if mirrored else scaled


def crop_of(table: Beton, key: int, *, augment: bool, size: int, seed: int = 0) -> NDArray[np.int64]:
    sample = np.array([key % len(table)])
    heights, widths = table.heights[sample], table.widths[sample]
    crops = random_crops(seed, np.array([key]), heights, widths) if augment else central_crops(heights, widths, size)
    return np.asarray(crops[0])


# Sizes below and above those of the crops, odd and even, and large enough for OpenCV's own threads.
@pytest.mark.parametrize("size", [1, 31, 400])
@pytest.mark.parametrize("augment", [True, False])
def test_an_image_is_opencvs_area_filter_of_its_crop_to_the_bit(augment: bool, size: int, betons: Path) -> None:
    table = Beton.open(betons / "train.beton")
    assert {JPEG, RAW} == set(table.modes.tolist())
    mirrored = 0
    for epoch in (0, 5):
        for key, image in loaded(stream(table, size=size, augment=augment, epoch=epoch, seed=3)).items():
            assert key // len(table) == epoch
            crop = crop_of(table, key, augment=augment, size=size, seed=3)
            assert np.array_equal(image, cut(whole(table, key % len(table)), crop, size))
            mirrored += int(crop[4])
    assert 0 < mirrored < 2 * len(table) if augment else mirrored == 0


def test_evaluation_is_torchvisions_resize_and_centre_crop_to_the_bit(photographs: Path, betons: Path) -> None:
    transform = v2.Compose([v2.Resize(73), v2.CenterCrop(64), v2.PILToTensor()])
    expected = ImageFolder(photographs / "val", transform)
    data = ImageNet(str(betons), image_size=64, batch_size=5)
    data.setup("test")
    images, labels = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    assert torch.equal(images, torch.stack([image for image, _ in expected]))
    assert labels.tolist() == expected.targets


def test_both_loaders_give_the_same_crops_in_the_same_order(photographs: Path, betons: Path) -> None:
    seen: dict[str, list[Any]] = {}
    for name, root in (("ffcv", betons), ("folder", photographs)):
        data = ImageNet(str(root), name, batch_size=8, image_size=64, num_workers=1, seed=2)  # type: ignore[arg-type]
        data.setup("fit")
        loader = data.train_dataloader()
        images, labels, keys = [], [], []
        for epoch in (0, 1, 2):
            loader.sampler.set_epoch(epoch)
            keys += loader.sampler.keys().tolist()
            for batch in loader:
                images.append(batch[0].float())
                labels.append(batch[1])
        seen[name] = [torch.cat(images), torch.cat(labels).tolist(), keys, data.classes]
    ours, theirs = seen["ffcv"], seen["folder"]
    assert ours[1:] == theirs[1:]
    # Among all crops in all epochs and their mirror images, the nearest one has the same key.
    candidates = torch.cat([theirs[0], theirs[0].flip(-1)]).flatten(1)
    distances = torch.cdist(ours[0].flatten(1), candidates, p=1)
    assert distances.argmin(1).tolist() == list(range(len(ours[0])))


@pytest.mark.parametrize("raw_share", [0.0, 1.0])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (17, 400), (9, 8)])
def test_images_of_any_shape_are_read_to_the_bit(height: int, width: int, raw_share: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = []
    for index in range(3):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        files.append((str(path), index))
    write(tmp_path / "a.beton", files, ["a", "b", "c"], Storage(None, None, 90, raw_share))
    table = Beton.open(tmp_path / "a.beton")
    for augment in (True, False):
        for epoch in range(3):
            for key, image in loaded(stream(table, size=16, augment=augment, epoch=epoch)).items():
                crop = crop_of(table, key, augment=augment, size=16)
                assert np.array_equal(image, cut(whole(table, key % 3), crop, 16))
