"""Your own photographs: which of them train, validate and test, by the directories that are there."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from repository import ROOT
from torch import Tensor

from lightning_subnets import UserError
from lightning_subnets.commands.cli import main
from lightning_subnets.datamodules import ImageFolder, ImageNet
from lightning_subnets.datamodules.loader import EpochLoader


@pytest.fixture
def root(photographs: Path, tmp_path: Path) -> Path:
    """Return a directory with 7 photographs in each class of ``train``, 4 in ``val``, 2 in ``test``."""
    shutil.copytree(photographs, tmp_path / "own")
    shutil.copytree(tmp_path / "own" / "val", tmp_path / "own" / "test")
    for path in (tmp_path / "own" / "test").glob("*/[23].jpg"):
        path.unlink()
    return tmp_path / "own"


def folder(root: Path, **options: object) -> ImageFolder:
    data = ImageFolder(str(root), image_size=64, num_workers=0, **options)  # type: ignore[arg-type]
    data.setup("fit")
    return data


def labels(loader: EpochLoader) -> Tensor:
    return torch.cat([labels for _, labels in loader])


def test_each_part_is_read_from_its_own_directory(root: Path) -> None:
    data = folder(root)
    assert data.loader == "folder"
    assert data.validated_on == "validation set"
    parts = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    assert [labels(part).bincount().tolist() for part in parts] == [[7] * 3, [4] * 3, [2] * 3]


def test_without_val_a_share_of_train_is_held_out_and_without_test_nothing_is_tested(root: Path) -> None:
    shutil.rmtree(root / "val")
    data = folder(root, validation_fraction=0.2)
    assert (len(labels(data.train_dataloader())), len(labels(data.val_dataloader()))) == (17, 4)
    assert data.has_test_set
    assert data.validated_on == "held-out images"
    shutil.rmtree(root / "test")
    data = folder(root)
    assert (len(labels(data.train_dataloader())), len(labels(data.val_dataloader()))) == (19, 2)
    assert not data.has_test_set
    with pytest.raises(UserError, match=f"{root} has no test images: put one directory of images per class into"):
        data.test_dataloader()


def test_the_best_epoch_is_never_chosen_on_the_test_set(root: Path) -> None:
    shutil.rmtree(root / "val")
    with pytest.raises(UserError, match=r"validation_fraction = 0, and .*own/val does not exist: set the fraction"):
        folder(root, validation_fraction=0.0)


def test_classes_that_differ_between_any_two_parts_are_refused(root: Path) -> None:
    (root / "test" / "class_1").rename(root / "test" / "other")
    with pytest.raises(UserError, match="only one of them has class_1, other"):
        folder(root)


def test_a_single_class_is_an_error_that_names_the_classes_below_it(root: Path) -> None:
    (root / "train").rename(root / "all")
    (root / "train").mkdir()
    (root / "all").rename(root / "train" / "all")
    for part in ("val", "test"):
        shutil.rmtree(root / part)
    with pytest.raises(UserError, match=r"train has one class, all: .* into it, or set --data.train_dir=train/all$"):
        folder(root)
    assert folder(root, train_dir="train/all").classes == ["class_0", "class_1", "class_2"]
    for name in ("class_0", "class_1", "class_2"):
        (root / "train" / "all" / name / "0.jpg").rename(root / "train" / "all" / f"{name}.jpg")
        shutil.rmtree(root / "train" / "all" / name)
    with pytest.raises(UserError, match=r"train has one class, all: put a directory for each class into it$"):
        folder(root)


def test_mean_and_std_are_options_and_those_of_imagenet_by_default(root: Path) -> None:
    images = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    data = folder(root, mean=(0.1, 0.2, 0.3), std=(0.1, 0.1, 0.2))
    torch.testing.assert_close(data.normalize(images)[0, :, 0, 0], torch.tensor([1.0, 0.0, -0.5]))
    assert (folder(root).mean, folder(root).std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with pytest.raises(UserError, match=r"std = \[0.0, 1.0, 1.0\] must be above 0"):
        folder(root, std=(0.0, 1.0, 1.0))


def test_files_of_ffcv_are_read_if_they_are_there(betons: Path) -> None:
    data = ImageFolder(str(betons), image_size=64, num_workers=1)
    data.setup("fit")
    assert data.loader == "ffcv"
    assert [len(labels(loader)) for loader in (data.train_dataloader(), data.val_dataloader())] == [21, 12]


def test_imagenet_is_validated_and_tested_on_val_as_published(root: Path) -> None:
    data = ImageNet(str(root), "folder", image_size=64, num_workers=0)
    assert data.validated_on == "test set"
    data.setup("fit")
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert labels(loader).bincount().tolist() == [4] * 3


def test_validation_images_may_be_in_one_directory_with_a_list_of_labels(root: Path) -> None:
    names = [f"n{number}" for number in range(3)]
    for part in ("train", "val"):
        for name, path in zip(names, sorted((root / part).iterdir()), strict=True):
            path.rename(path.with_name(name))
    shutil.rmtree(root / "test")
    lines = []
    for path in sorted((root / "val").glob("*/*.jpg")):
        name = f"{path.parent.name}_{path.name}"
        path.rename(root / "val" / name)
        lines.append(f"{name} {path.parent.name}")
    for name in names:
        (root / "val" / name).rmdir()
    with pytest.raises(UserError, match=r"val has no directories: .* a list gives their labels"):
        folder(root)
    (root / "val.txt").write_text("\n".join(lines))
    for data in (folder(root), ImageNet(str(root), "folder", image_size=64, num_workers=0)):
        data.setup("fit")
        assert data.classes == names
        assert labels(data.val_dataloader()).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    shutil.copytree(root / "val", root / "test")  # the list has no labels of test images
    with pytest.raises(UserError, match="test has no directories"):
        folder(root)
    shutil.rmtree(root / "test")
    shutil.rmtree(root / "train" / "n2")
    with pytest.raises(UserError, match=r"val\.txt names a class 'n2' that has no directory of training images"):
        folder(root)


def test_photographs_without_labels_are_predicted_into_the_runs_directory(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data=ImageFolder", f"--data.root={root}", "--data.image_size=32", "--data.num_workers=0"]
    network = ["--model.network.in_channels=3", "--model.network.image_size=32", "--model.network.num_classes=3"]
    trainer = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=1"]
    main(["fit", "-c", str(ROOT / "configs" / "quickstart.yaml"), *data, *network, *trainer])
    shutil.rmtree(root / "val")
    loose, run = tmp_path / "loose", Path("runs/quickstart/version_0")
    shutil.copytree(root / "test" / "class_1", loose)
    command = ["predict", f"--ckpt_path={run}", f"--data.images={loose}"]
    main(command)
    first = (run / "predictions.csv").read_bytes()
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(loose / "0.jpg"), str(loose / "1.jpg")]
    assert {row["predicted"] for row in rows} <= {"class_0", "class_1", "class_2"}
    assert list(rows[0]) == ["file", "predicted", "probability"]
    main([*command[:2], f"--data.images={loose / '1.jpg'}"])
    assert (run / "predictions.csv").read_bytes() == first
    assert len((run / "predictions_1.csv").read_text().splitlines()) == 2
    assert "nowhere is neither an image nor a folder with images" in mistake([*command[:2], "--data.images=nowhere"])
    shutil.rmtree(root / "train")
    assert "train does not exist" in mistake(command)


def test_directories_of_other_names_are_read_if_they_are_named(root: Path) -> None:
    for part in ("train", "val", "test"):
        shutil.copytree(root / part, root / f"my_{part}")
        for path in (root / part).glob("*/0.jpg"):
            path.unlink()
    data = folder(root, train_dir="my_train", val_dir="my_val", test_dir="my_test")
    parts = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    assert [labels(part).bincount().tolist() for part in parts] == [[7] * 3, [4] * 3, [2] * 3]
    imagenet = ImageNet(str(root), "folder", train_dir="my_train", val_dir="my_val", image_size=64, num_workers=0)
    imagenet.setup("fit")
    assert (imagenet.num_train, len(labels(imagenet.test_dataloader()))) == (21, 12)
