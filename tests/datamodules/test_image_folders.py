"""A folder of images is read for its classes and images, whatever their names are, and for nothing else."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Callable
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
from lightning_subnets.datamodules import CIFAR10, CIFAR100, ImageNet
from lightning_subnets.datamodules.ffcv.beton import Beton
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.preparation import prepare
from lightning_subnets.datamodules.image_files import class_names, image_paths, list_files
from lightning_subnets.training.callbacks import Predictions
from lightning_subnets.training.module import SubnetModule

COLOURS = {"cat": "red", "dog": "blue"}
LATIN_1 = os.fsdecode(b"caf\xe9")  # not UTF-8


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of two classes, three training and two test images each, of 32x32 pixels."""
    for part, count in (("train", 3), ("test", 2)):
        for name, colour in COLOURS.items():
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (32, 32), colour).save(tmp_path / part / name / f"{index}.png")
    return tmp_path


def files(folder: Path) -> list[tuple[str, int]]:
    return [(os.path.relpath(path, folder), label) for path, label in list_files(folder, class_names(folder))]


PLAIN = [(f"{name}/{index}.png", label) for label, name in enumerate(COLOURS) for index in range(3)]


def data_modules(root: Path) -> list[Any]:
    modules = [CIFAR10(str(root)), ImageNet(str(root), "folder", val_dir="test", image_size=32, num_workers=0)]
    for data in modules:
        data.setup("fit")
    return modules


def test_hidden_directories_and_files_are_neither_classes_nor_images(root: Path) -> None:
    for folder in (root / "train", root / "train" / "cat"):
        (folder / ".ipynb_checkpoints").mkdir()
        Image.new("RGB", (32, 32)).save(folder / ".ipynb_checkpoints" / "0-checkpoint.png")
    (root / "train" / "dog" / "._0.png").write_bytes(b"\0\5\x16\7")  # macOS leaves such a file beside a copied one
    (root / "train" / "dog" / ".DS_Store").touch()
    assert files(root / "train") == PLAIN


def test_a_link_that_leads_back_is_not_followed(root: Path) -> None:
    cat = root / "train" / "cat"
    for name, target in (("here", "."), ("up", ".."), ("far", root)):
        (cat / name).symlink_to(target)
    (cat / "more").mkdir()
    (cat / "more" / "back").symlink_to("..")
    (root / "train" / "all").symlink_to(".")
    (root / "train" / "parent").symlink_to("..")
    assert files(root / "train") == PLAIN


def test_links_to_classes_and_to_directories_of_images_are_followed_once(root: Path) -> None:
    train = root / "train"
    (root / "elsewhere").mkdir()
    (train / "dog").rename(root / "elsewhere" / "hounds")
    (train / "dog").symlink_to(root / "elsewhere" / "hounds")
    (root / "elsewhere" / "kittens").mkdir()
    Image.new("RGB", (32, 32)).save(root / "elsewhere" / "kittens" / "3.png")
    for name in ("one", "two"):
        (train / "cat" / name).symlink_to(root / "elsewhere" / "kittens")
    assert files(train) == [*PLAIN[:3], ("cat/one/3.png", 0), *PLAIN[3:]]


def test_the_order_of_the_images_never_changes(tmp_path: Path) -> None:
    for name in ("a/b/1.png", "a-b/1.JPG", "a/2.png", "a/10.jpeg", "B.png", "b.PNG", "é.bmp", "a.tiff"):
        (tmp_path / "class" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "class" / name).touch()
    expected = ["B.png", "a.tiff", "b.PNG", "é.bmp", "a/10.jpeg", "a/2.png", "a-b/1.JPG", "a/b/1.png"]
    assert image_paths(tmp_path / "class") == [str(tmp_path / "class" / name) for name in expected]


def test_every_image_that_pillow_reads_is_one(root: Path) -> None:
    extensions = ["jfif", "jpe", "gif", "webp", "jp2", "tga", "PNG", *["avif"] * bool(features.check("avif"))]
    for extension in extensions:
        Image.new("RGB", (32, 32), "red").save(root / "train" / "cat" / f"x.{extension}")
    for data in data_modules(root):
        assert data.num_train == 6 + len(extensions)
        batches = data.make_loader(None, train=True, augment=False)
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        red = images[labels == 0].float()
        assert len(red) == 3 + len(extensions)
        assert red[:, 0].mean() > 253
        assert red[:, 1:].mean() < 2


def test_other_files_are_counted_by_their_extensions(root: Path) -> None:
    cat, dog = root / "train" / "cat", root / "train" / "dog"
    # A format does not count as an image if Pillow has only a stub for its decoder, or if its files are not pictures.
    for path in (cat / "a.heic", dog / "b.HEIC", dog / "notes", cat / "a.h5", cat / "a.pdf", cat / "a.mpg"):
        path.touch()
    (cat / "a.eps").touch()
    (cat / "cat_boxes.txt").touch()
    with pytest.warns(UserWarning, match=r"train: 7 files are left out, .*: \.heic \(2\), .*, and 2 more$") as caught:
        assert files(root / "train") == PLAIN
    assert len(caught) == 1


def another_size(root: Path) -> None:
    Image.new("RGB", (48, 32)).save(root / "train" / "cat" / "1.png")


def cut_short(root: Path) -> None:
    path = root / "test" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:60])


def without_images(root: Path) -> None:
    for path in (root / "train" / "dog").iterdir():
        path.unlink()


def of_the_other_name(root: Path) -> None:
    (root / "test" / "dog").rename(root / "test" / "horse")


def empty(root: Path) -> None:
    shutil.rmtree(root / "test")
    (root / "test").mkdir()


MISTAKES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "another size": (another_size, "CIFAR10", "{root}/train/cat/1.png is 48x32 pixels; those of CIFAR10 are 32x32"),
    "cut short": (cut_short, "CIFAR10", "{root}/test/dog/1.png is not a readable image"),
    "a class without images": (without_images, "CIFAR10 ImageNet", "{root}/train has no image of 1 classes, dog: "),
    "different classes": (of_the_other_name, "CIFAR10 ImageNet", "only one of them has dog, horse"),
    "no classes": (empty, "CIFAR10 ImageNet", "{root}/test is missing or empty"),
    "no folder": (lambda root: shutil.rmtree(root / "test"), "CIFAR10", "{root}/test is missing or empty"),
}


@pytest.mark.parametrize(("damage", "kinds", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_folder_that_does_not_fit_is_an_error_that_names_the_place(
    damage: Callable[[Path], None], kinds: str, message: str, root: Path
) -> None:
    damage(root)
    for kind in kinds.split():
        data = CIFAR10(str(root)) if kind == "CIFAR10" else ImageNet(str(root), "folder", val_dir="test")
        with pytest.raises(UserError, match=re.escape(message.format(root=root))):
            data.setup("fit")


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


@pytest.fixture
def odd_names(root: Path) -> Path:
    """Return a folder with a class and images whose names are not UTF-8, or contain a line break."""
    for part in ("train", "test"):
        (root / part / "cat").rename(root / part / LATIN_1)
        folder = root / part / LATIN_1
        (folder / "0.png").rename(folder / f"{LATIN_1}.png")
        (folder / "1.png").rename(folder / "two\nlines.png")
    return root


def test_names_that_are_not_utf_8_train_and_predict(odd_names: Path, tmp_path: Path) -> None:
    data = CIFAR10(str(odd_names), batch_size=2)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 1}
    predictions = Predictions(str(tmp_path / "predictions.csv"))
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    trainer = Trainer(**options, callbacks=[predictions])
    module = SubnetModule(network, ls.EdgePopup(0.5), optimizer=lambda scores: torch.optim.SGD(scores, lr=0.1))
    trainer.fit(module, datamodule=data)
    trainer.predict(module, datamodule=data)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[1] for row in rows] == [r"caf\udce9"] * 2 + ["dog"] * 2


def test_a_damaged_image_whose_name_is_not_utf_8_is_named(odd_names: Path, mistake: Any) -> None:
    (odd_names / "train" / LATIN_1 / f"{LATIN_1}.png").write_bytes(b"no image")
    network = ["in_channels=3", "image_size=32", "num_classes=2"]
    command = ["fit", "-c", str(ROOT / "configs" / "quickstart.yaml"), "--trainer.accelerator=cpu", "--data=CIFAR10"]
    command += [f"--trainer.default_root_dir={odd_names / 'runs'}", f"--data.root={odd_names}"]
    error = mistake([*command, *(f"--model.network.{option}" for option in network)])
    assert r"caf\udce9/caf\udce9.png is not a readable image" in error


@pytest.mark.skipif(not installed(), reason="FFCV is not installed: data/install_ffcv.sh")
def test_names_that_are_not_utf_8_are_prepared_and_found_again(
    odd_names: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (odd_names / "train" / LATIN_1 / f"bad{LATIN_1}.png").write_bytes(b"no image")
    for _ in range(2):
        prepare(tmp_path / "out", odd_names, val="test", image_size=32, num_workers=1, skip_bad=True)
    error = capsys.readouterr().err
    assert r"badcaf\udce9.png is not a readable image" in error
    assert error.count("exists with images of the same names and sizes") == 2
    assert Beton.open(tmp_path / "out" / "train.beton").classes == [LATIN_1, "dog"]


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_images_are_shifted_by_at_most_the_padding(root: Path, kind: type[CIFAR10]) -> None:
    for padding in (0, 2):
        data = kind(str(root), padding=padding, batch_size=100)
        data.setup("fit")
        pictures = torch.cat([next(iter(data.train_dataloader()))[0] for _ in range(20)])
        assert bool((pictures == 0).all(1).any()) == (padding > 0)  # the border is black, and the images are not
        assert (pictures[..., padding : 32 - padding, padding : 32 - padding] != 0).any(1).all()
    with pytest.raises(UserError, match=r"padding = -1 is outside \[0, 32\]"):
        kind(str(root), padding=-1)
