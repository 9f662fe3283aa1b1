"""The same photographs have the same labels in every layout of a data set."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from lightning_subnets import UserError
from lightning_subnets.datamodules.label_lists import find_images

# Sorted by name, the labels are 0 to 3; ImageNet's development kit has another order and more classes.
CLASSES = ["n01440764", "n02119789", "n03995372", "n04447861"]
KIT = [*reversed(CLASSES), "n09999999"]
LABELS = {f"ILSVRC2012_val_{index + 1:08d}": label for index, label in enumerate([2, 0, 3, 1, 0, 0, 2, 3])}

Layout = Callable[[Path], object]


def touch(path: Path) -> None:
    """Create an empty file: an image's contents do not matter here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in CLASSES:
        for index in (10, 9):
            touch(tmp_path / "train" / name / f"{name}_{index}.JPEG")
    return tmp_path


def by_class(source: Path) -> None:
    for name, label in LABELS.items():
        touch(source / "val" / CLASSES[label] / f"{name}.JPEG")


def flat(source: Path) -> None:
    for name in reversed(LABELS):
        touch(source / "val" / f"{name}.JPEG")


def kaggle(source: Path) -> None:
    flat(source)
    lines = [f"{name},{CLASSES[label]} 85 1 499 272 " for name, label in LABELS.items()]
    # A line may list a second object.
    lines[2] += f"{CLASSES[3]} 4 5 6 7 "
    (source / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines[::-1]]) + "\n")


def kit(source: Path, directory: str = "ILSVRC2012_devkit_t12/data") -> None:
    flat(source)
    (source / directory).mkdir(parents=True, exist_ok=True)
    numbers = "".join(f"{KIT.index(CLASSES[label]) + 1}\n" for label in LABELS.values())
    (source / directory / "ILSVRC2012_validation_ground_truth.txt").write_text(numbers)
    synsets = np.zeros((len(KIT), 1), [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for index, name in enumerate(KIT):
        synsets[index, 0] = (index + 1, name, "a kind of thing")
    savemat(source / directory / "meta.mat", {"synsets": synsets})


def caffe(source: Path) -> None:
    flat(source)
    (source / "val.txt").write_text("".join(f"{name}.JPEG {label}\n" for name, label in LABELS.items()))


def tiny(source: Path) -> None:
    for name in CLASSES:
        for image in list((source / "train" / name).iterdir()):
            touch(image.parent / "images" / image.name)
            image.unlink()
        (source / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_9.JPEG\t0\t0\t62\t62\n")
    for name in LABELS:
        touch(source / "val" / "images" / f"{name}.JPEG")
    lines = [f"{name}.JPEG\t{CLASSES[label]}\t0\t32\t44\t62\n" for name, label in LABELS.items()]
    (source / "val" / "val_annotations.txt").write_text("".join(lines))


LAYOUTS = {
    "directories of classes": by_class,
    "Kaggle": kaggle,
    "development kit": kit,
    "development kit beside the images": lambda source: kit(source, "val"),
    "Caffe": caffe,
    "Tiny ImageNet": tiny,
}


def found(source: Path, val_labels: Path | None = None) -> dict[str, int]:
    """Return the label of each validation image, after checking everything else."""
    classes, train, val = find_images(source, "train", "val", val_labels)
    assert classes == CLASSES
    assert [(Path(path).name, label) for path, label in train] == [
        (f"{name}_{index}.JPEG", label) for label, name in enumerate(CLASSES) for index in (10, 9)
    ]
    assert all(Path(path).is_file() for path, _ in train + val)
    assert len(val) == len(LABELS)
    if not any((source / "val" / name).is_dir() for name in CLASSES):
        assert [Path(path).stem for path, _ in val] == sorted(LABELS)
    return {Path(path).stem: label for path, label in val}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_gives_the_same_labels(layout: Layout, source: Path) -> None:
    layout(source)
    assert found(source) == LABELS


@pytest.mark.parametrize("separator", [",", "\t ", "  "])
@pytest.mark.parametrize(("by_name", "header"), [(False, ""), (True, "image{}class\n")])
def test_a_list_may_have_any_of_the_usual_forms(
    separator: str, by_name: bool, header: str, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    flat(source)
    labels = tmp_path_factory.mktemp("elsewhere") / "labels.txt"
    lines = [f"{name}.JPEG{separator}{CLASSES[label] if by_name else label}" for name, label in LABELS.items()]
    labels.write_text(header.format(separator) + "\n\n".join(lines))
    assert found(source, labels) == LABELS


def test_a_list_of_class_names_alone_is_in_the_order_of_the_images(source: Path) -> None:
    flat(source)
    path = source / "names.txt"
    path.write_text("".join(f"{CLASSES[LABELS[name]]}\n" for name in sorted(LABELS)))
    assert found(source, path) == LABELS
    path.write_text("n1\n" + path.read_text().partition("\n")[2])
    with pytest.raises(UserError, match=r"names\.txt names a class 'n1' that has no directory of training images"):
        found(source, path)


@pytest.mark.parametrize("text", ["golden retriever\ncat\n", "label\ngolden retriever\ncat\n", "2\n1\n10\n"])
def test_class_names_alone_may_have_spaces_and_a_header_and_may_be_digits(text: str, tmp_path: Path) -> None:
    names = text.removeprefix("label\n").splitlines()
    for name, image in zip(names, "abc", strict=False):
        touch(tmp_path / "train" / name / "1.jpg")
        touch(tmp_path / "val" / f"{image}.jpg")
    (tmp_path / "val.txt").write_text(text)
    classes, _, found = find_images(tmp_path, "train", "val", None)
    assert [classes[label] for _, label in found] == names


def test_a_given_list_has_precedence(source: Path) -> None:
    caffe(source)
    other = source / "other.txt"
    other.write_text("".join(f"{name} {3 - label}\n" for name, label in LABELS.items()))
    assert found(source, other) == {name: 3 - label for name, label in LABELS.items()}
    with pytest.raises(UserError, match=r"missing\.txt cannot be read as a list of labels"):
        found(source, source / "missing.txt")


def test_a_class_whose_name_is_a_number_is_found_by_name(tmp_path: Path) -> None:
    for name in ("10", "9", "2"):
        touch(tmp_path / "train" / name / "1.png")
        touch(tmp_path / "val" / f"of{name}.png")
    (tmp_path / "val.txt").write_text("of10 10\nof9 9\nof2 2\n")
    classes, _, val = find_images(tmp_path, "train", "val", None)
    assert classes == ["10", "2", "9"]
    assert {Path(path).stem: classes[label] for path, label in val} == {"of10": "10", "of9": "9", "of2": "2"}


@pytest.mark.parametrize(
    ("classes", "stated", "expected"),
    [("123", "012", [0, 1, 2]), ("123", "112", [0, 0, 1]), ("123", "321", [2, 1, 0]), ("012", "210", [2, 1, 0])],
)
def test_the_classes_of_a_list_are_all_names_or_all_indices(
    classes: str, stated: str, expected: list[int], tmp_path: Path
) -> None:
    for name in classes:
        touch(tmp_path / "train" / name / "1.png")
    for image in "abc":
        touch(tmp_path / "val" / f"{image}.png")
    lines = [f"{image}.png {label}\n" for image, label in zip("abc", stated, strict=True)]
    (tmp_path / "val.txt").write_text("".join(lines))
    assert [label for _, label in find_images(tmp_path, "train", "val", None)[2]] == expected
    (tmp_path / "val.txt").write_text("a.png 0\nb.png 1\nc.png 3\n")
    with pytest.raises(UserError, match=f"names a class '{'3' if classes == '012' else '0'}' that has no directory"):
        find_images(tmp_path, "train", "val", None)


@pytest.mark.parametrize(
    "text",
    [
        "img 1.jpg,cat\nb.jpg,golden retriever\n",
        'image,class\n"img 1.jpg", "cat"\n"b.jpg", "golden retriever"\n',
        "\ufeffimage,class\nimg 1.jpg,cat 1 2 3 4\nb.jpg,golden retriever,0.5\n",
        "\ufeffimg 1.jpg,0\nb.jpg,1",
    ],
)
def test_names_in_a_list_with_commas_may_have_spaces_and_quotes(text: str, tmp_path: Path) -> None:
    for name, image in (("cat", "img 1"), ("golden retriever", "b")):
        touch(tmp_path / "train" / name / "1.jpg")
        touch(tmp_path / "val" / f"{image}.jpg")
    (tmp_path / "val.txt").write_text(text, encoding="utf-8")
    assert {Path(path).stem: label for path, label in find_images(tmp_path, "train", "val", None)[2]} == {
        "img 1": 0,
        "b": 1,
    }


def rewrite(path: str, change: Callable[[list[str]], list[str]]) -> Layout:
    def mistake(source: Path) -> None:
        (source / path).write_text("\n".join(change((source / path).read_text().splitlines())))

    return mistake


def remove(path: str) -> Layout:
    return lambda source: shutil.rmtree(source / path) if (source / path).is_dir() else (source / path).unlink()


def empty(path: str) -> Layout:
    def mistake(source: Path) -> None:
        for file in (source / path).iterdir():
            file.unlink()

    return mistake


TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
THIRD = "val/ILSVRC2012_val_00000003.JPEG"
MISTAKES: dict[str, tuple[Layout, Layout, str]] = {
    "no training images": (kaggle, remove("train"), "{source}/train is missing or empty"),
    "no validation images": (by_class, remove("val"), "{source}/val is missing or empty"),
    "no list": (flat, lambda _: None, "{source}/val has no directories: it should contain a directory of images"),
    "an image less": (kaggle, remove(THIRD), "LOC_val_solution.csv and {source}/val do not match: 1 names are in one"),
    "an image more": (caffe, lambda source: touch(source / "val/0.png"), "1 names are in one only, such as 0"),
    "the first image less": (
        caffe,  # the class in the first line shows that it is not a header
        remove("val/ILSVRC2012_val_00000001.JPEG"),
        "such as ILSVRC2012_val_00000001",
    ),
    "a label less": (caffe, rewrite("val.txt", lambda lines: lines[:-1]), "such as ILSVRC2012_val_00000008"),
    "an unknown class": (
        kaggle,
        rewrite("LOC_val_solution.csv", lambda lines: [line.replace("n04447861", "n1") for line in lines]),
        "LOC_val_solution.csv names a class 'n1' that has no directory of training images",
    ),
    "a class that is not trained": (
        kit,
        rewrite(TRUTH, lambda lines: [*lines[1:], "5"]),
        "names a class 'n09999999' that has no directory of training images",
    ),
    "a number that the kit does not have": (kit, rewrite(TRUTH, lambda lines: [*lines[1:], "6"]), "names a class '6'"),
    "a number less": (kit, rewrite(TRUTH, lambda lines: lines[1:]), "has 7 labels for the 8 images in {source}/val"),
    "a kit without names": (
        kit,
        remove("ILSVRC2012_devkit_t12/data/meta.mat"),
        "meta.mat, which gives their names, is missing",
    ),
    "a kit of damaged names": (
        kit,
        lambda source: (source / TRUTH).with_name("meta.mat").write_bytes(b"MATLAB 5.0"),
        "{source}/ILSVRC2012_devkit_t12/data/meta.mat cannot be read",
    ),
    "a line without a class": (
        caffe,
        rewrite("val.txt", lambda lines: [*lines[:-1], lines[-1][:-2]]),
        "{source}/val.txt has a line 'ILSVRC2012_val_00000008.JPEG' without a class",
    ),
    "two labels for an image": (
        caffe,
        rewrite("val.txt", lambda lines: [*lines, lines[0][:-1] + "3"]),
        "{source}/val.txt has 1 labels for an image that already has one",
    ),
    "two images of one name": (
        caffe,
        lambda source: touch(source / "val/ILSVRC2012_val_00000001.png"),
        "{source}/val has 1 images with the name of another image",
    ),
    "an empty list": (caffe, lambda source: (source / "val.txt").write_text("\n"), "{source}/val.txt has 0 labels"),
    "a list that is no text": (
        caffe,
        lambda source: (source / "val.txt").write_bytes(b"\xff\xd8\xff\xe0"),
        "{source}/val.txt cannot be read as a list of labels",
    ),
}


@pytest.mark.parametrize(("layout", "mistake", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mismatch_is_an_error_that_names_it(layout: Layout, mistake: Layout, message: str, source: Path) -> None:
    layout(source)
    mistake(source)
    with pytest.raises(UserError, match=re.escape(message.format(source=source))):
        found(source)


def test_names_without_extension_may_have_dots(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        touch(tmp_path / "train" / name / "1.jpg")
        touch(tmp_path / "val" / f"2021.05.0{number}.jpg")
    (tmp_path / "val.txt").write_text("2021.05.00 cat\n2021.05.01 dog\n")
    assert [label for _, label in find_images(tmp_path, "train", "val", None)[2]] == [0, 1]
