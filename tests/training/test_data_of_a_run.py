"""A run is resumed and evaluated with the classes that it learned, and validated on no image that it was trained on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

from lightning_subnets import UserError
from lightning_subnets.commands import subnets
from lightning_subnets.commands.cli import main
from lightning_subnets.datamodules import ImageFolder
from lightning_subnets.subnet_file.container import Container

RUN, FILE = Path("runs/quickstart/first"), Path("runs/quickstart/first/checkpoints/last.subnet")
DATA = ["--data=ImageFolder", "--data.root=own", "--data.image_size=32", "--data.num_workers=0"]
NETWORK = ["--model.network.in_channels=3", "--model.network.image_size=32", "--model.network.num_classes=3"]
FIT = [
    "fit",
    "-c",
    str(ROOT / "configs/quickstart.yaml"),
    "--version=first",
    *DATA,
    *NETWORK,
    "--trainer.accelerator=cpu",
]


@pytest.fixture(scope="module")
def trained(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with photographs, ``own``, a tenth of which is held out, and a run of one epoch on them."""
    place = tmp_path_factory.mktemp("trained")
    shutil.copytree(photographs / "train", place / "own" / "train")
    shutil.copytree(photographs / "val", place / "own" / "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        main([*FIT, "--trainer.max_epochs=1"])
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def resume() -> list[str]:
    """Return a command that trains another epoch of the run."""
    (RUN / "summary.json").unlink()
    return [*FIT, "--trainer.max_epochs=2"]


def test_classes_of_other_names_are_refused_and_a_file_has_the_learned_ones(
    place: Path, mistake: Callable[..., str]
) -> None:
    for part in ("train", "test"):
        (place / "own" / part / "class_0").rename(place / "own" / part / "z")
    evaluations = [[verb, f"--ckpt_path={RUN}"] for verb in ("validate", "test", "predict")]
    for command in (*evaluations, ["test", f"--ckpt_path={FILE}"], resume()):
        error = mistake(command)
        assert "has learned 'class_1' as class 1, and in the data it is class 0: give the" in error, command
    shutil.copytree(place / "own" / "train" / "z", place / "own" / "train" / "zz")
    subnets.main(["export", str(RUN), "mine.subnet"])
    assert Container("mine.subnet").header.classes == ["class_0", "class_1", "class_2"]
    shutil.rmtree(place / "own")
    subnets.main(["export", str(RUN), "mine.subnet", "--force"])
    assert Container("mine.subnet").header.classes == ["class_0", "class_1", "class_2"]


@pytest.mark.parametrize(
    ("learned", "moved"),
    [
        (["class_0", "class_1", "class_2"], None),
        (["0", "1", "2"], None),  # as files by FFCV's own writer number them
        (["tench", "shark", "hen"], None),
        (["tench", "class_1", "hen"], None),
        (["class_1", "class_0", "class_2"], "class_1"),
        (["class_1", "class_2"], "class_1"),
    ],
)
def test_only_a_class_with_another_number_is_refused(learned: list[str], moved: str | None, place: Path) -> None:
    data = ImageFolder("own")
    if moved is None:
        data.check_classes(learned)
    else:
        with pytest.raises(UserError, match=f"has learned '{moved}' as class 0, and in the data it is class 1"):
            data.check_classes(learned)


def test_the_classes_of_a_file_are_compared_after_the_download(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(_: ImageFolder) -> None:
        for part in ("train", "test"):
            if (place / "own" / part / "z").is_dir():
                (place / "own" / part / "z").rename(place / "own" / part / "class_0")

    for part in ("train", "test"):
        (place / "own" / part / "class_0").rename(place / "own" / part / "z")
    monkeypatch.setattr(ImageFolder, "prepare_data", download)
    main(["test", f"--ckpt_path={FILE}"])


def test_images_that_were_trained_on_are_not_held_out_later(place: Path, mistake: Callable[..., str]) -> None:
    shutil.copy(place / "own/train/class_0/0.jpg", place / "own/train/class_0/00.jpg")
    for command in (["validate", f"--ckpt_path={RUN}"], resume()):
        error = mistake(command)
        assert "has trained on some of the images that would be held out now: it had 21 training images and" in error
        assert "there are 22, or a name" in error
    main(["test", f"--ckpt_path={RUN}"])
    shutil.copytree(place / "own" / "test", place / "own" / "val")
    main(["validate", f"--ckpt_path={RUN}"])


def rename(root: Path) -> None:
    for path in sorted((root / "train" / "class_1").iterdir()):
        path.rename(path.with_stem(f"{9 - int(path.stem)}"))


def remove(root: Path) -> None:
    (root / "train" / "class_2" / "0.jpg").unlink()


@pytest.mark.parametrize(
    ("change", "options"),
    [(rename, {}), (remove, {}), (None, {"seed": 1}), (None, {"validation_fraction": 0.5}), (None, None)],
)
def test_each_change_of_the_held_out_images_is_seen(
    change: Callable[[Path], None] | None, options: dict[str, Any] | None, photographs: Path, tmp_path: Path
) -> None:
    def folder(name: str, **options: Any) -> ImageFolder:
        data = ImageFolder(str(tmp_path / name), validation_fraction=options.pop("validation_fraction", 0.3), **options)
        data.setup("fit")
        return data

    shutil.copytree(photographs / "train", tmp_path / "own" / "train")
    theirs = folder("own").identity
    (tmp_path / "own").rename(tmp_path / "elsewhere")
    if change:
        change(tmp_path / "elsewhere")
    data = folder("elsewhere", **options or {})
    data.check_identity(theirs, validates=options is None)
    if options is not None:
        with pytest.raises(UserError, match="has trained on some of the images"):
            data.check_identity(theirs, validates=True)


def test_a_file_of_the_same_images_holds_out_the_same(betons: Path, tmp_path: Path) -> None:
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(betons / name, tmp_path)
    first, again, other = (ImageFolder(str(tmp_path), seed=seed) for seed in (0, 0, 1))
    for data in (first, again, other):
        data.setup("fit")
    again.check_identity(first.identity, validates=True)
    with pytest.raises(UserError, match="has trained on some of the images"):
        other.check_identity(first.identity, validates=True)
