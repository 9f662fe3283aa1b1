"""A folder of images is read for its classes and images, whatever their names are, and for nothing else."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image, features
from repository import ROOT
from torch import nn

import lightning_subnets as ls
from lightning_subnets import UserError
from lightning_subnets.datamodules import CIFAR10, ImageNet, TinyImageNet
from lightning_subnets.datamodules.ffcv.beton import Beton
from lightning_subnets.datamodules.ffcv.layouts import find_images
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.preparation import prepare
from lightning_subnets.datamodules.image_files import class_names, image_paths, list_files
from lightning_subnets.training.callbacks import Predictions
from lightning_subnets.training.module import SubnetModule

COLOURS = {"cat": "red", "dog": "blue"}
LATIN_1 = os.fsdecode(b"caf\xe9")  # no UTF-8


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, of three images to train and two to test, of 32x32 pixels."""
    for part, count in (("train", 3), ("test", 2)):
        for name, colour in COLOURS.items():
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (32, 32), colour).save(tmp_path / part / name / f"{index}.png")
    return tmp_path


def files(folder: Path) -> list[tuple[str, int]]:
    """The files that are found, relative to the folder."""
    return [(os.path.relpath(path, folder), label) for path, label in list_files(folder, class_names(folder))]


PLAIN = [(f"{name}/{index}.png", label) for label, name in enumerate(COLOURS) for index in range(3)]


def data_modules(root: Path) -> list[Any]:
    """Every data module that reads the folder, set up."""
    modules = [CIFAR10(str(root)), ImageNet(str(root), "folder", val_dir="test", image_size=32, num_workers=0)]
    for data in modules:
        data.setup("fit")
    return modules


def test_hidden_directories_and_files_are_neither_classes_nor_images(root: Path) -> None:
    for folder in (root / "train", root / "train" / "cat"):
        (folder / ".ipynb_checkpoints").mkdir()
        Image.new("RGB", (32, 32)).save(folder / ".ipynb_checkpoints" / "0-checkpoint.png")
    (root / "train" / ".git").mkdir()
    (root / "train" / "dog" / "._0.png").write_bytes(b"\0\5\x16\7")  # what macOS leaves beside a copied file
    (root / "train" / "dog" / ".DS_Store").touch()
    assert files(root / "train") == PLAIN
    for data in data_modules(root):
        assert (data.classes, data.num_train) == (["cat", "dog"], 6)
    assert find_images(root, "train", "test", None)[0] == ["cat", "dog"]
    (root / "train" / "val.txt").write_text("0 0\n1 0\n2 0\n")
    assert len(find_images(root, "train", "train/cat", root / "train" / "val.txt")[2]) == 3


def test_a_link_that_leads_back_is_not_followed(root: Path) -> None:
    cat = root / "train" / "cat"
    for name, target in (("here", "."), ("up", ".."), ("far", root)):
        (cat / name).symlink_to(target)
    (cat / "more").mkdir()
    (cat / "more" / "back").symlink_to("..")
    (root / "train" / "all").symlink_to(".")
    (root / "train" / "parent").symlink_to("..")
    assert files(root / "train") == PLAIN
    for data in data_modules(root):
        assert data.num_train == 6


def test_links_to_classes_and_to_directories_of_images_are_followed_once(root: Path) -> None:
    train = root / "train"
    (root / "elsewhere").mkdir()
    (train / "dog").rename(root / "elsewhere" / "hounds")
    (train / "dog").symlink_to(root / "elsewhere" / "hounds")
    assert files(train) == PLAIN
    (root / "elsewhere" / "kittens").mkdir()
    Image.new("RGB", (32, 32)).save(root / "elsewhere" / "kittens" / "3.png")
    for name in ("one", "two"):
        (train / "cat" / name).symlink_to(root / "elsewhere" / "kittens")
    assert files(train) == [*PLAIN[:3], ("cat/one/3.png", 0), *PLAIN[3:]]


def test_the_images_of_an_ordinary_folder_are_in_the_order_that_they_have_always_had(tmp_path: Path) -> None:
    for name in ("a/b/1.png", "a-b/1.JPG", "a/2.png", "a/10.jpeg", "B.png", "b.PNG", "é.bmp", "a.tiff"):
        (tmp_path / "class" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "class" / name).touch()
    expected = ["B.png", "a.tiff", "b.PNG", "é.bmp", "a/10.jpeg", "a/2.png", "a-b/1.JPG", "a/b/1.png"]
    assert image_paths(tmp_path / "class") == [str(tmp_path / "class" / name) for name in expected]


def test_every_image_that_pillow_reads_is_one(root: Path) -> None:
    endings = ["jfif", "jpe", "gif", "webp", "jp2", "tga", "PNG", *["avif"] * bool(features.check("avif"))]
    for ending in endings:
        Image.new("RGB", (32, 32), "red").save(root / "train" / "cat" / f"x.{ending}")
    for data in data_modules(root):
        assert data.num_train == 6 + len(endings)
        images, labels = (
            torch.cat(parts) for parts in zip(*data.batches(None, train=True, augment=False), strict=True)
        )
        red = images[labels == 0].float()
        assert len(red) == 3 + len(endings)
        assert red[:, 0].mean() > 253
        assert red[:, 1:].mean() < 2


def test_files_that_are_no_images_are_counted_by_their_endings(root: Path) -> None:
    cat, dog = root / "train" / "cat", root / "train" / "dog"
    # A format is not an image if Pillow has only a stub for its decoder, or if its files are not pictures.
    for path in (
        cat / "a.heic",
        dog / "b.HEIC",
        dog / "notes",
        cat / "a.h5",
        cat / "a.pdf",
        cat / "a.mpg",
        cat / "a.eps",
    ):
        path.touch()
    (cat / "cat_boxes.txt").touch()
    with pytest.warns(UserWarning, match=r"train: 7 files are left out, .*: \.heic \(2\), .*, \.\.\.$") as caught:
        assert files(root / "train") == PLAIN
    assert len(caught) == 1


def test_a_class_without_images_says_so_and_what_it_has(root: Path) -> None:
    for path in (root / "train" / "dog").iterdir():
        path.rename(path.with_suffix(".heic"))
    with (
        pytest.warns(UserWarning, match=r"3 files are left out, .* \.heic \(3\)$"),
        pytest.raises(UserError, match="train has no image of 1 classes, dog: "),
    ):
        files(root / "train")


def test_a_directory_that_cannot_be_read_is_an_error_that_names_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, place = os.scandir, str(root / "train" / "cat" / "more")
    os.mkdir(place)

    def scandir(path: Any) -> Any:
        if os.fspath(path) == place:
            raise PermissionError(13, "Permission denied", place)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=re.escape(f"{place} cannot be read: Permission denied")):
        files(root / "train")


def test_tiny_imagenets_classes_are_its_visible_directories(tmp_path: Path) -> None:
    (tmp_path / "wnids.txt").write_text("n1\nn2\n")
    for name in ("train/n1/images", "train/n2/images", "train/.ipynb_checkpoints", "val/images"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "val" / "val_annotations.txt").touch()
    assert TinyImageNet(str(tmp_path)).classes == ["n1", "n2"]


@pytest.fixture
def odd_names(root: Path) -> Path:
    """A class and images whose names are not UTF-8, or contain a line break."""
    for part in ("train", "test"):
        (root / part / "cat").rename(root / part / LATIN_1)
        folder = root / part / LATIN_1
        (folder / "0.png").rename(folder / f"{LATIN_1}.png")
        (folder / "1.png").rename(folder / "two\nlines.png")
    return root


def test_names_that_are_no_utf_8_train_and_predict(odd_names: Path, tmp_path: Path) -> None:
    data = CIFAR10(str(odd_names), batch_size=2)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 1}
    trainer = Trainer(
        **options,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[Predictions(str(tmp_path / "predictions.csv"))],
    )
    module = SubnetModule(network, ls.EdgePopup(0.5), optimizer=lambda scores: torch.optim.SGD(scores, lr=0.1))
    trainer.fit(module, datamodule=data)
    trainer.predict(module, datamodule=data)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[1] for row in rows] == [r"caf\udce9"] * 2 + ["dog"] * 2


def test_an_image_whose_name_is_no_utf_8_is_named_when_it_is_damaged(
    odd_names: Path, capsys: pytest.CaptureFixture[str], mistake: Any
) -> None:
    (odd_names / "train" / LATIN_1 / f"{LATIN_1}.png").write_bytes(b"no image")
    error = mistake(
        [
            "fit",
            "-c",
            str(ROOT / "configs" / "quickstart.yaml"),
            "--trainer.accelerator=cpu",
            f"--trainer.default_root_dir={odd_names / 'runs'}",
            "--data=CIFAR10",
            f"--data.root={odd_names}",
            "--model.network.in_channels=3",
            "--model.network.image_size=32",
            "--model.network.num_classes=2",
        ]
    )
    assert r"caf\udce9/caf\udce9.png is not a readable image" in error


@pytest.mark.skipif(not installed(), reason="FFCV is not installed: data/install_ffcv.sh")
def test_names_that_are_no_utf_8_are_prepared_and_found_again(
    odd_names: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (odd_names / "train" / LATIN_1 / f"bad{LATIN_1}.png").write_bytes(b"no image")
    for _ in range(2):
        prepare(tmp_path / "out", odd_names, val="test", image_size=32, num_workers=1, skip_bad=True)
    error = capsys.readouterr().err
    assert r"badcaf\udce9.png is not a readable image" in error
    assert error.count("is there already, of the same images and settings") == 2
    assert Beton.open(tmp_path / "out" / "train.beton").classes == [LATIN_1, "dog"]
