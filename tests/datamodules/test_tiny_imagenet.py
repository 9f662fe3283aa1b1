"""Tiny ImageNet in its distributed layout, three classes of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_subnets import UserError
from lightning_subnets.datamodules import TinyImageNet

WNIDS = ["n03444034", "n01443537", "n02124075"]  # as in a wnids.txt, in no order
VAL = [2, 0, 1, 1, 0, 2, 0, 1, 2, 0, 1, 2]  # the place in WNIDS of val_0, val_1 ...


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory as the archive's, with 4 images a class in ``train`` and 12 in ``val``; one of each is grey."""
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
    write(root / "test" / "images" / "test_0.JPEG", grey=False)
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


def annotate(root: Path, edit: Callable[[str], str]) -> None:
    path = root / "val" / "val_annotations.txt"
    path.write_text(edit(path.read_text()))


def test_a_label_is_the_place_of_the_class_in_the_order_of_the_alphabet(root: Path) -> None:
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


def test_training_images_are_augmented_and_test_images_are_not(root: Path) -> None:
    data = loaded(root)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        (images, labels), *_ = loader
        assert torch.equal(images, data.test_set[0])
        assert torch.equal(labels, data.test_set[1])
    (images, labels), *_ = data.train_dataloader()
    assert images.shape == (12, 3, 64, 64)
    assert labels.sort().values.tolist() == data.train_set[1].tolist()
    assert {image.numpy().tobytes() for image in images}.isdisjoint(
        {image.numpy().tobytes() for image in data.train_set[0]}
    )
    for image, label in zip(images, labels, strict=True):
        assert any(_is_cut_from(image, whole) for whole in data.train_set[0][data.train_set[1] == label])


def _is_cut_from(image: torch.Tensor, whole: torch.Tensor) -> bool:
    padded = torch.nn.functional.pad(whole, (4,) * 4)
    places = [padded[:, top : top + 64, left : left + 64] for top in range(9) for left in range(9)]
    return any(torch.equal(image, place) or torch.equal(image, place.flip(2)) for place in places)


def test_a_held_out_share_is_of_the_training_images_and_not_augmented(root: Path) -> None:
    data = TinyImageNet(str(root), validation_fraction=0.5)
    data.setup("fit")
    (images, labels), *_ = data.val_dataloader()
    held_out = data.split()[1]
    assert len(held_out) == 6
    assert torch.equal(images, data.train_set[0][held_out])
    assert torch.equal(labels, data.train_set[1][held_out])


def test_the_images_without_labels_are_left_alone(root: Path) -> None:
    shutil.rmtree(root / "test")
    assert len(loaded(root).test_set[1]) == len(VAL)


def test_a_bar_says_how_far_reading_is_on_a_terminal_of_the_first_process(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(root)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # as rich calls a terminal
    loaded(root)
    assert "reading images" in capsys.readouterr().err
    second = TinyImageNet(str(root))
    second.trainer = SimpleNamespace(is_global_zero=False)  # type: ignore[assignment]
    second.setup("fit")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("part", ["wnids.txt", "train", "val/images", "val/val_annotations.txt"])
def test_missing_data_are_an_error_at_once_that_says_where_they_are_to_be_had(root: Path, part: str) -> None:
    (root / part).rename(root / "elsewhere")
    message = (
        rf"{re.escape(str(root))} holds no {part}: unzip http://cs231n.*tiny-imagenet-200.zip in data/, .*data.root"
    )
    with pytest.raises(UserError, match=message):
        TinyImageNet(str(root))


def test_a_class_without_a_directory_is_an_error_that_names_it(root: Path) -> None:
    shutil.rmtree(root / "train" / WNIDS[1])
    with pytest.raises(UserError, match=f"wnids.txt and the directories .* do not fit: 1 classes .*, {WNIDS[1]} for"):
        loaded(root)


def test_a_directory_that_is_no_class_is_an_error_that_names_it(root: Path) -> None:
    (root / "train" / "n99999999").mkdir()
    with pytest.raises(UserError, match=r"do not fit: 1 classes .*, n99999999 for one; unzip http.* again"):
        loaded(root)


def test_a_list_of_classes_that_is_no_text_is_an_error_that_names_it(root: Path) -> None:
    (root / "wnids.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"wnids.txt cannot be read as a list of classes"):
        loaded(root)


def test_a_class_without_an_image_is_an_error_that_names_it(root: Path) -> None:
    shutil.rmtree(root / "train" / WNIDS[2] / "images")
    with pytest.raises(UserError, match=WNIDS[2]):
        loaded(root)


@pytest.mark.parametrize("part", [f"train/{WNIDS[0]}/images/{WNIDS[0]}_3.JPEG", "val/images/val_7.JPEG"])
@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_damaged_image_is_an_error_that_names_the_file(root: Path, part: str, content: bytes | None) -> None:
    path = root / part
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))} is not a readable image"):
        loaded(root)


def test_an_image_of_another_size_is_an_error_that_names_the_file_and_both_sizes(root: Path) -> None:
    path = root / "val" / "images" / "val_3.JPEG"
    Image.new("RGB", (64, 48)).save(path)
    with pytest.raises(UserError, match=f"{re.escape(str(path))} is 64x48 pixels; those of TinyImageNet are 64x64"):
        loaded(root)


def test_an_annotation_of_an_unknown_class_is_an_error_that_names_it(root: Path) -> None:
    annotate(root, lambda text: text.replace(WNIDS[1], "n99999999", 1))
    with pytest.raises(UserError, match=r"val_annotations.txt names a class 'n99999999' that has no directory"):
        loaded(root)


def test_an_annotation_of_a_missing_image_is_an_error_that_names_it(root: Path) -> None:
    (root / "val" / "images" / "val_4.JPEG").unlink()
    with pytest.raises(UserError, match=r"val_annotations.txt and .*images do not fit: 1 names .* val_4 for one"):
        loaded(root)


def test_an_image_without_an_annotation_is_an_error_that_names_it(root: Path) -> None:
    annotate(root, lambda text: text.replace(f"val_11.JPEG\t{WNIDS[2]}\t0\t32\t44\t62\n", ""))
    with pytest.raises(UserError, match=r"val_annotations.txt and .*images do not fit: 1 names .* val_11 for one"):
        loaded(root)


def test_annotations_broken_off_in_a_line_are_an_error(root: Path) -> None:
    annotate(root, lambda text: text[: text.rindex("val_9") + len("val_9.JPEG\t")])
    with pytest.raises(UserError, match=r"val_annotations.txt has a line 'val_9.JPEG' without a class"):
        loaded(root)
