"""ImageNet from FFCV's files: missing files, the sizes of the images, a Trainer, the command line."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from repository import ROOT

from lightning_subnets import UserError
from lightning_subnets.datamodules import ImageNet, image_folder
from lightning_subnets.datamodules.ffcv.beton import JPEG, Beton, description_path
from lightning_subnets.datamodules.ffcv.preparation import prepare
from lightning_subnets.datamodules.image_folder import Resizing

CONFIG = str(ROOT / "configs" / "rn50_signed.yaml")
Mistake = Callable[[list[str]], str]


@pytest.fixture
def root(betons: Path, tmp_path: Path) -> Path:
    """Return a copy of the files, to damage."""
    return Path(shutil.copytree(betons, tmp_path / "betons"))


@pytest.fixture
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def command(root: Path, *options: str) -> list[str]:
    data = [f"--data.root={root}", "--data.batch_size=8", "--data.image_size=64", "--data.num_workers=2"]
    network = ["--model.network=torchvision.models.squeezenet1_1", "--model.network.num_classes=3"]
    trainer = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.max_epochs=1"]
    return ["fit", "-c", CONFIG, *data, *network, *trainer, *options]


def test_missing_files_are_an_error_that_names_them_and_how_to_write_them(root: Path) -> None:
    (root / "val.beton").unlink()
    (root / "val.beton").mkdir()  # a directory is not a file
    with pytest.raises(UserError, match=r"lacks val\.beton: write them with data/prepare_imagenet.py.*loader=folder"):
        ImageNet(str(root))
    (root / "train.beton").unlink()
    with pytest.raises(UserError, match=r"lacks train\.beton and val\.beton"):
        ImageNet(str(root))


def test_without_ffcv_its_files_are_refused_and_a_folder_is_not(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folder, "installed", lambda: False)
    for name in ("train.beton", "val.beton"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"FFCV is not installed: run data/install_ffcv.sh, .*--data.loader=folder"):
        ImageNet(str(tmp_path))
    assert len(ImageNet(str(photographs), "folder").classes) == 3


def test_files_of_different_classes_are_refused(root: Path) -> None:
    description = json.loads(description_path(root / "val.beton").read_text())
    description["classes"].reverse()
    description_path(root / "val.beton").write_text(json.dumps(description))
    for refused in (lambda: ImageNet(str(root)).classes, lambda: ImageNet(str(root)).setup("fit")):
        with pytest.raises(UserError, match=r"train\.beton and .*val.beton have different classes: write both again"):
            refused()


@pytest.mark.usefixtures("_in_an_empty_directory")
def test_the_command_names_a_damaged_file_before_it_trains_and_leaves_nothing_behind(
    root: Path, mistake: Mistake
) -> None:
    with (root / "val.beton").open("r+b") as file:
        file.truncate((root / "val.beton").stat().st_size - 1)
    error = mistake(command(root))
    assert f"{root / 'val.beton'} is damaged or incomplete: it is " in error
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("_in_an_empty_directory")
def test_the_command_names_a_damaged_image(root: Path, mistake: Mistake) -> None:
    table = Beton.open(root / "train.beton")
    sample = (table.modes == JPEG).nonzero()[0][-1]
    with (root / "train.beton").open("r+b") as file:
        file.seek(table.pointers[sample])
        file.write(bytes(int(table.sizes[sample])))
    said = [line for line in mistake(command(root)).splitlines() if line.startswith("error: ")]
    assert said == [
        f"error: {root / 'train.beton'}: image {sample}, of class {table.classes[table.labels[sample]]}, is damaged. "
        "Write the file again, see data/README.md"
    ]


def warnings_of(data: ImageNet) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for stage in ("fit", "validate", "test"):
            data.setup(stage)
        list(data.test_dataloader())
    return [str(warning.message) for warning in caught]


def test_inexact_evaluation_warns_once_and_names_the_option(betons: Path, photographs: Path, tmp_path: Path) -> None:
    (warning,) = warnings_of(ImageNet(str(betons), image_size=128))
    assert f"{betons / 'val.beton'} was not written for evaluation at 128 pixels" in warning
    assert "data/prepare_imagenet.py --image_size=128 makes evaluation exact" in warning
    assert warnings_of(ImageNet(str(betons), image_size=64, validation_fraction=0.25)) == []
    prepare(tmp_path, photographs, image_size=64, val_raw_share=0.5, num_workers=2)
    (warning,) = warnings_of(ImageNet(str(tmp_path), image_size=64))
    assert "were compressed" in warning


@pytest.mark.parametrize("name", ["ffcv", pytest.param("folder", marks=pytest.mark.thorough)])
def test_training_images_grow_by_the_epoch_and_those_of_evaluation_do_not(
    name: Literal["ffcv", "folder"], request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue("betons" if name == "ffcv" else "photographs")
    options: dict[str, Any] = {"batch_size": 8, "image_size": 64, "num_workers": 1}
    data = ImageNet(str(root), name, train_size=Resizing(32, 96, 0, 2), **options)
    assert data.image_shape == (3, 64, 64)
    data.setup("fit")
    train, val = data.train_dataloader(), data.val_dataloader()
    for epoch, size in enumerate([32, 64, 96, 96]):
        for loader, expected, counts in ((train, size, [8, 8, 5]), (val, 64, [8, 4])):
            loader.sampler.set_epoch(epoch)
            assert [images.shape for images, _ in loader] == [(count, 3, expected, expected) for count in counts]
