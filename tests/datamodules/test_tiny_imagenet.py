"""Tiny ImageNet in its distributed layout, three classes of it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed

from lightning_subnets import UserError
from lightning_subnets.datamodules import TinyImageNet

WNIDS = ["n03444034", "n01443537", "n02124075"]  # a wnids.txt is not sorted
VAL = [2, 0, 1, 1, 0, 2, 0, 1, 2, 0, 1, 2]  # the index in WNIDS of the class of val_0, val_1 ...


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory like the archive's: 4 images a class in ``train``, 12 in ``val``, one of each is grey."""
    root, rng = tmp_path / "tiny-imagenet-200", np.random.default_rng(0)

    def write(path: Path, *, grey: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64) if grey else (64, 64, 3), dtype=np.uint8)).save(path)

    for wnid in WNIDS:
        for index in range(4):
            write(root / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", grey=wnid == WNIDS[0] and index == 2)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    for index in range(len(VAL)):
        write(root / "val" / "images" / f"val_{index}.JPEG", grey=index == 5)
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (root / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\nn00001740\tentity\n")
    lines = [f"val_{index}.JPEG\t{WNIDS[label]}\t0\t32\t44\t62\n" for index, label in enumerate(VAL)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def loaded(root: Path) -> TinyImageNet:
    data = TinyImageNet(str(root))
    data.setup("fit")
    return data


def pixels(path: Path) -> torch.Tensor:
    """uint8 (3, 64, 64)."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def test_a_label_is_the_index_of_the_class_in_alphabetical_order(root: Path) -> None:
    data = loaded(root)
    assert data.classes == sorted(WNIDS) != WNIDS
    assert data.train_set[1].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    names = sorted(f"val_{index}" for index in range(len(VAL)))  # val_0, val_1, val_10, ...
    assert data.test_set[1].tolist() == [sorted(WNIDS).index(WNIDS[VAL[int(name[4:])]]) for name in names]


def test_the_pixels_are_those_of_the_files_grey_ones_in_three_channels(root: Path) -> None:
    data = loaded(root)
    for images, paths in (
        (data.train_set[0], sorted((root / "train").glob("*/images/*"))),
        (data.test_set[0], sorted((root / "val" / "images").iterdir())),
    ):
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        assert torch.equal(images, torch.stack([pixels(path) for path in paths]))
    grey = data.train_set[0][sorted(WNIDS).index(WNIDS[0]) * 4 + 2]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
    (augmented, labels), *_ = data.train_dataloader()
    assert labels.sort().values.tolist() == data.train_set[1].tolist()
    assert {image.numpy().tobytes() for image in data.train_set[0]}.isdisjoint(
        image.numpy().tobytes() for image in augmented
    )


def test_a_terminal_of_the_first_process_shows_the_progress_of_reading(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(root)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    loaded(root)
    assert "reading images" in capsys.readouterr().err
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    loaded(root)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("part", ["wnids.txt", "train", "val/images", "val/val_annotations.txt"])
def test_missing_data_are_an_error_that_says_where_to_get_them(root: Path, part: str) -> None:
    (root / part).rename(root / "elsewhere")
    message = (
        rf"{re.escape(str(root))} holds no {part}: unzip http://cs231n.*tiny-imagenet-200.zip in data/, .*data.root"
    )
    with pytest.raises(UserError, match=message):
        TinyImageNet(str(root))


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a class less": (
        lambda root: shutil.rmtree(root / "train" / WNIDS[1]),
        f"wnids.txt and the directories in .* do not match: 1 classes .*, such as {WNIDS[1]}; unzip http.* again",
    ),
    "a class more": (lambda root: (root / "train" / "n9").mkdir(), "do not match: 1 classes .*, such as n9;"),
    "no text": (
        lambda root: (root / "wnids.txt").write_bytes(b"\xff\xfe\x00"),
        "wnids.txt cannot be read as a list of classes",
    ),
    "a class without an image": (lambda root: shutil.rmtree(root / "train" / WNIDS[2] / "images"), WNIDS[2]),
    "an image less": (
        lambda root: (root / "val/images/val_7.JPEG").unlink(),
        "val_annotations.txt and .*images do not match: 1 names .* such as val_7",
    ),
}


@pytest.mark.parametrize(("damage", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_data_that_do_not_match_are_an_error_that_names_them(
    damage: Callable[[Path], object], message: str, root: Path
) -> None:
    damage(root)
    with pytest.raises(UserError, match=message):
        loaded(root)
