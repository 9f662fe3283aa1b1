from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_subnets.commands import calibration
from lightning_subnets.datamodules import CIFAR10
from lightning_subnets.errors import UserError


@pytest.mark.parametrize("resize", [4097, 0, -1, 8.0, "8", True])
def test_photographs_are_not_scaled_to_an_implausible_size(resize: Any, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    stated = {"mean": [0.5], "std": [0.5], "resize": resize}
    with pytest.raises(UserError, match=f"are scaled to {resize!r} pixels, expected 1 to 4096"):
        calibration.of_folder(str(tmp_path), stated, (1, 8, 8))


def test_large_images_are_calibrated_on_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(4):
        Image.new("L", (8, 8)).save(tmp_path / f"{index}.png")
    monkeypatch.setattr(calibration, "LARGEST", 3 * 64)
    found = calibration.of_folder(str(tmp_path), {"mean": [0.5], "std": [0.5]}, (1, 8, 8))
    assert found.images.shape == (3, 1, 8, 8)


def test_the_images_of_a_run_are_those_that_it_trains_on_without_augmentation(cifar_folder: Path) -> None:
    data = CIFAR10(str(cifar_folder), batch_size=7, validation_fraction=0.5)
    data.setup("fit")
    found = calibration._training_images(data)
    assert torch.equal(found.images, data.normalize(data.train_set[0][data.split()[0]]))
    assert found.source == "30 training images of CIFAR10"
