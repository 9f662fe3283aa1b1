"""Photographs on their way from a folder to a batch."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.models import Wide_ResNet50_2_Weights
from torchvision.transforms import v2

from lightning_subnets import UserError
from lightning_subnets.datamodules import ImageNet
from lightning_subnets.datamodules.folder_loader import FolderLoader
from lightning_subnets.datamodules.loader import Batch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two small pictures each, to damage."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            directory = tmp_path / part / name
            directory.mkdir(parents=True)
            for index in range(2):
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(directory / f"{index}.jpg")
    return tmp_path


def imagenet(root: Path, **options: Any) -> ImageNet:
    data = ImageNet(str(root), **{"loader": "folder", "batch_size": 8, "image_size": 64, "num_workers": 0, **options})
    data.setup("fit")
    return data


def training(data: ImageNet) -> FolderLoader:
    loader = data.train_dataloader()
    assert isinstance(loader, FolderLoader)
    return loader


def epoch(loader: Iterable[Batch], number: int = 0) -> Batch:
    """All images and labels of an epoch, after Lightning has told the loader which it is."""
    _set_sampler_epoch(loader, number)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def crops(images: Tensor, labels: Tensor) -> set[tuple[bytes, int]]:
    return {(image.numpy().tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)}


def test_a_batch_is_of_uint8_images_and_int64_labels(photographs: Path) -> None:
    data = imagenet(photographs, image_size=224)
    assert data.image_shape == (3, 224, 224)
    for loader, sizes in ((data.train_dataloader(), [8, 8, 5]), (data.val_dataloader(), [8, 4])):
        batches = list(loader)
        assert [images.shape for images, _ in batches] == [(size, 3, 224, 224) for size in sizes]
        assert [labels.shape for _, labels in batches] == [(size,) for size in sizes]
        assert {(images.dtype, labels.dtype) for images, labels in batches} == {(torch.uint8, torch.int64)}


def test_the_labels_are_the_classes_in_the_order_of_the_alphabet(photographs: Path) -> None:
    data = imagenet(photographs)
    assert data.classes == sorted(path.name for path in (photographs / "train").iterdir())
    assert epoch(data.val_dataloader())[1].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert epoch(data.train_dataloader())[1].bincount().tolist() == [7, 7, 7]


def test_images_are_normalised_as_torchvision_does_it(photographs: Path) -> None:
    data = imagenet(photographs)
    images, labels = epoch(data.val_dataloader())
    normalised, same = data.on_after_batch_transfer((images, labels), 0)
    expected = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(v2.functional.to_dtype(images, scale=True))
    torch.testing.assert_close(normalised, expected)
    assert same is labels


def test_evaluation_is_torchvisions_resize_and_centre_crop_to_the_pixel(photographs: Path) -> None:
    transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])
    expected = torch.stack([image for image, _ in ImageFolder(photographs / "val", transform)])
    images, _ = epoch(imagenet(photographs, image_size=224).val_dataloader())
    assert torch.equal(images, expected)


def test_evaluation_gives_a_network_what_torchvision_evaluates_its_own_on(photographs: Path) -> None:
    transform = Wide_ResNet50_2_Weights.IMAGENET1K_V1.transforms()
    expected = torch.stack([image for image, _ in ImageFolder(photographs / "val", transform)])
    data = imagenet(photographs, image_size=224)
    torch.testing.assert_close(data.normalize(epoch(data.test_dataloader())[0]), expected)


def test_held_out_photographs_are_of_the_training_set_and_seen_as_in_evaluation(photographs: Path) -> None:
    transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])
    train = ImageFolder(photographs / "train", transform)
    data = imagenet(photographs, image_size=224, validation_fraction=0.25)
    kept, held_out = data.split()
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(21))
    images, labels = epoch(data.val_dataloader())
    assert torch.equal(images, torch.stack([train[index][0] for index in held_out.tolist()]))
    assert labels.tolist() == [train.targets[index] for index in held_out.tolist()]
    assert len(epoch(data.train_dataloader())[1]) == 16


def test_worker_processes_change_nothing(photographs: Path) -> None:
    alone = imagenet(photographs).train_dataloader()
    shared = imagenet(photographs, num_workers=2).train_dataloader()
    for number in (0, 1):
        expected, batches = epoch(alone, number), epoch(shared, number)
        assert torch.equal(batches[0], expected[0])
        assert torch.equal(batches[1], expected[1])


def test_ranks_change_nothing_but_who_sees_what(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = imagenet(photographs)
    alone = crops(*epoch(data.train_dataloader(), 3))
    for ranks in (2, 3):
        seen = []
        for rank in range(ranks):
            monkeypatch.setattr(data, "trainer", SimpleNamespace(global_rank=rank, world_size=ranks))
            seen.append(crops(*epoch(data.train_dataloader(), 3)))
        monkeypatch.undo()
        assert [len(part) for part in seen] == [21 // ranks] * ranks
        assert len(set.union(*seen)) == 21 // ranks * ranks
        assert set.union(*seen) <= alone


def test_every_epoch_and_every_seed_has_other_crops(photographs: Path) -> None:
    seen: set[tuple[bytes, int]] = set()
    for seed in (0, 1):
        loader = imagenet(photographs, seed=seed).train_dataloader()
        for number in (0, 1):
            seen |= crops(*epoch(loader, number))
    assert len(seen) == 4 * 21


def test_every_epoch_and_every_seed_has_another_order(photographs: Path) -> None:
    orders = set()
    for seed in (0, 1):
        loader = imagenet(photographs, seed=seed).train_dataloader()
        orders |= {tuple(epoch(loader, number)[1].tolist()) for number in (0, 1)}
    assert len(orders) == 4
    assert all(sorted(order) == [0] * 7 + [1] * 7 + [2] * 7 for order in orders)


def test_an_epoch_has_the_same_crops_whether_or_not_the_one_before_was_seen(photographs: Path) -> None:
    continued, resumed = imagenet(photographs).train_dataloader(), imagenet(photographs).train_dataloader()
    epoch(continued, 0)
    first, again = epoch(continued, 1), epoch(resumed, 1)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_a_crop_is_of_the_published_range_of_areas_and_aspects_and_mirrored_or_not(folder: Path) -> None:
    column = np.arange(256, dtype=np.uint8)
    # A pixel's red is its column, its green is its row.
    Image.fromarray(np.dstack([*np.meshgrid(column, column), np.zeros((256, 256), np.uint8)])).save(folder / "0.png")
    for path in (folder / "train").glob("*/*.jpg"):
        path.unlink()
        path.with_suffix(".png").symlink_to(folder / "0.png")
    loader = imagenet(folder).train_dataloader()
    images = torch.cat([epoch(loader, number)[0] for number in range(100)]).int()
    # 64 pixels are 63 steps; the rounding of an end is half a pixel of 256.
    widths = (images[:, 0, 0, -1] - images[:, 0, 0, 0]) * 64 / 63
    heights = (images[:, 1, -1, 0] - images[:, 1, 0, 0]) * 64 / 63
    areas, aspects = widths.abs() * heights / 256**2, widths.abs() / heights
    assert 0.07 < areas.min() < 0.1
    assert 0.9 < areas.max() < 1.02
    assert 0.72 < aspects.min() < 0.8
    assert 1.25 < aspects.max() < 1.39
    assert 160 <= (widths < 0).sum() <= 240  # 200 of 400, give or take 4 deviations


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_generators_as_they_are(photographs: Path, workers: int) -> None:
    data = imagenet(photographs, num_workers=workers)
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    epoch(data.train_dataloader())
    epoch(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_a_photograph_of_any_mode_has_three_channels(mode: str, folder: Path) -> None:
    path = folder / "val" / "cat" / "0.jpg"
    with Image.open(path) as image:
        other = image.convert(mode)
    other.save(path, format="JPEG" if mode in ("L", "CMYK") else "PNG")
    images, _ = epoch(imagenet(folder, image_size=224).val_dataloader())
    assert images.shape == (4, 3, 224, 224)
    if mode in ("L", "1"):
        assert torch.equal(images[0], images[0, :1].expand(3, -1, -1))


def test_the_cores_are_shared_among_the_processes_of_a_node(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12))
    data = imagenet(photographs, num_workers=None)
    assert training(data).num_workers == 11
    for devices, workers in ((1, 11), (8, 1), (16, 1), (4, 2)):
        monkeypatch.setattr(data, "trainer", SimpleNamespace(global_rank=0, world_size=devices, num_devices=devices))
        assert training(data).num_workers == workers


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_missing_directory_is_an_error_that_names_it_before_anything_is_read(part: str, folder: Path) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(UserError, match=f"{re.escape(str(folder / part))} does not exist"):
        ImageNet(str(folder), loader="folder")


def test_a_directory_without_classes_is_an_error_that_names_it(folder: Path) -> None:
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    with pytest.raises(UserError, match=f"{re.escape(str(folder / 'val'))} is missing or empty"):
        _ = ImageNet(str(folder), loader="folder").classes
    with pytest.raises(UserError, match=re.escape(str(folder / "val"))):
        ImageNet(str(folder), loader="folder").setup("fit")


def test_classes_that_differ_are_an_error_that_names_them(folder: Path) -> None:
    (folder / "val" / "dog").rename(folder / "val" / "horse")
    with pytest.raises(UserError, match="only one of them has dog, horse"):
        _ = ImageNet(str(folder), loader="folder").classes


def test_classes_that_differ_never_get_as_far_as_wrong_labels(folder: Path) -> None:
    (folder / "val" / "dog").rename(folder / "val" / "horse")
    with pytest.raises(UserError, match="only one of them has dog, horse"):
        ImageNet(str(folder), loader="folder").setup("fit")


def test_a_class_without_an_image_is_an_error_that_names_it(folder: Path) -> None:
    for path in (folder / "train" / "dog").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="dog"):
        ImageNet(str(folder), loader="folder").setup("fit")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photograph_cut_short_is_an_error_that_ends_with_its_name(workers: int, folder: Path) -> None:
    path = folder / "train" / "dog" / "1.jpg"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UserError) as caught:
        epoch(imagenet(folder, num_workers=workers).train_dataloader())
    *_, last = str(caught.value).strip().splitlines()
    assert f"{path} is not a readable image (" in last
    assert last.endswith("mend it or take it away")
    # The traceback holds the worker process, for which the garbage collector would wait 5 seconds.
    caught.value.__traceback__ = None
    del caught


@pytest.mark.parametrize("ending", ["jpg", "png", "ppm", "bmp", "webp"])
def test_a_photograph_cut_short_anywhere_is_an_error(ending: str, folder: Path) -> None:
    path = folder / "train" / "cat" / f"2.{ending}"
    with Image.open(folder / "train" / "cat" / "0.jpg") as image:
        image.save(path)
    content, dataset = path.read_bytes(), training(imagenet(folder))._loader.dataset
    # Without the marks at the end of its file a picture is whole.
    for length in (*range(60), *range(60, len(content) - 32, len(content) // 40)):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=re.escape(str(path))):
            dataset[2]
