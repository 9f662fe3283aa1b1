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
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.models import Wide_ResNet50_2_Weights
from torchvision.transforms import v2

from lightning_subnets import UserError
from lightning_subnets.datamodules import ImageNet
from lightning_subnets.datamodules.folder_loader import FolderLoader
from lightning_subnets.datamodules.loader import Batch


def imagenet(root: Path, **options: Any) -> ImageNet:
    data = ImageNet(str(root), **{"loader": "folder", "batch_size": 8, "image_size": 64, "num_workers": 0, **options})
    data.setup("fit")
    return data


def training(data: ImageNet) -> FolderLoader:
    loader = data.train_dataloader()
    assert isinstance(loader, FolderLoader)
    return loader


def epoch(loader: Iterable[Batch], number: int = 0) -> Batch:
    """Return all images and labels of an epoch, after Lightning has set its number."""
    _set_sampler_epoch(loader, number)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def crops(images: Tensor, labels: Tensor) -> set[tuple[bytes, int]]:
    return {(image.numpy().tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)}


def test_evaluation_is_torchvisions_to_the_pixel_and_so_are_held_out_photographs(photographs: Path) -> None:
    transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])
    data = imagenet(photographs, image_size=224, validation_fraction=0.25)
    expected = torch.stack([image for image, _ in ImageFolder(photographs / "val", transform)])
    images, labels = epoch(data.test_dataloader())
    assert torch.equal(images, expected)
    transform = Wide_ResNet50_2_Weights.IMAGENET1K_V1.transforms()
    normalised, same = data.on_after_batch_transfer((images, labels), 0)
    expected = torch.stack([image for image, _ in ImageFolder(photographs / "val", transform)])
    torch.testing.assert_close(normalised, expected)
    assert same is labels
    train = ImageFolder(photographs / "train", v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()]))
    kept, held_out = data.split()
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(21))
    images, labels = epoch(data.val_dataloader())
    assert torch.equal(images, torch.stack([train[index][0] for index in held_out.tolist()]))
    assert labels.tolist() == [train.targets[index] for index in held_out.tolist()]
    assert len(epoch(data.train_dataloader())[1]) == 16


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_a_function_of_seed_and_number_and_leaves_the_global_generators(
    workers: int, photographs: Path
) -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    loader = imagenet(photographs, num_workers=workers).train_dataloader()
    seen, orders = set(), set()
    for number in (0, 1):
        images, labels = epoch(loader, number)
        alone = epoch(imagenet(photographs).train_dataloader(), number)
        assert torch.equal(images, alone[0])
        assert torch.equal(labels, alone[1])
        for part in ((images, labels), epoch(imagenet(photographs, seed=1).train_dataloader(), number)):
            seen |= crops(*part)
            orders.add(tuple(part[1].tolist()))
    assert len(seen) == 4 * 21
    assert len(orders) == 4
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]


def test_the_cores_are_shared_among_the_processes_of_a_node(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12))
    data = imagenet(photographs, num_workers=None)
    assert training(data).num_workers == 11
    for devices, workers in ((1, 11), (8, 1), (16, 1), (4, 2)):
        monkeypatch.setattr(data, "trainer", SimpleNamespace(global_rank=0, world_size=devices, num_devices=devices))
        assert training(data).num_workers == workers


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_missing_directory_is_an_error_before_anything_is_read(part: str, tmp_path: Path) -> None:
    (tmp_path / ("val" if part == "train" else "train")).mkdir()
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path / part))} does not exist"):
        ImageNet(str(tmp_path), loader="folder")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photograph_cut_short_is_an_error_that_ends_with_its_name(
    workers: int, photographs: Path, tmp_path: Path
) -> None:
    shutil.copytree(photographs, tmp_path / "copy")
    path = sorted((tmp_path / "copy" / "train").glob("*/1.jpg"))[1]
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UserError) as caught:
        epoch(imagenet(tmp_path / "copy", num_workers=workers).train_dataloader())
    *_, last = str(caught.value).strip().splitlines()
    assert f"{path} is not a readable image (" in last
    assert last.endswith("repair or remove it")
    # The traceback holds the worker process, for which the garbage collector would wait 5 seconds.
    caught.value.__traceback__ = None
    del caught
