"""Photographs and labels in the layouts of ImageNet: directories of classes, or one directory and a list of labels."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

from lightning_subnets.datamodules.image_files import Files, common_classes, image_paths, list_files
from lightning_subnets.errors import UserError

# The lists of ImageNet's development kit, Kaggle, Caffe and Tiny ImageNet, relative to the source or to the images.
LABEL_LISTS = (
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
    "data/ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_validation_ground_truth.txt",
    "LOC_val_solution.csv",
    "val.txt",
    "val_annotations.txt",
)


def find_images(source: Path, train: str, val: str, val_labels: Path | None) -> tuple[list[str], Files, Files]:
    """Return the classes, the training files and the validation files, each file with its label.

    Training images are in ``train/<class>/``, at any depth. Validation images are in ``val/<class>/``, or all in
    ``val`` with a list of labels: ``val_labels``, or the first file of ``LABEL_LISTS`` that exists.
    """
    train_dir, val_dir = source / train, source / val
    classes, labels = common_classes(train_dir, train_dir), val_labels
    if labels is None:
        labels = find_list(source, val_dir, classes)
    if labels is None:
        classes = common_classes(train_dir, val_dir)
        return classes, list_files(train_dir, classes), list_files(val_dir, classes)
    return classes, list_files(train_dir, classes), list_labelled(val_dir, labels, classes)


def find_list(source: Path, directory: Path, classes: list[str]) -> Path | None:
    """Return the list of labels for a directory of images, or None if it has directories of classes or no list."""
    if any((directory / name).is_dir() for name in classes):
        return None
    places = (folder / name for folder in (source, directory) for name in LABEL_LISTS)
    return next((place for place in places if place.is_file()), None)


def list_labelled(directory: Path, labels: Path, classes: list[str]) -> Files:
    """Return path and label of each image of a directory, from a list with one line per image.

    A line starts with the name of an image and its class. Either all classes of a list are names, or all are indices in
    the sorted names; where both would fit, they are names. In a line with a comma, which is read as CSV, the names may
    have spaces. A header line is skipped.

    A list of class names alone is in the order of the images' names. So is ImageNet's
    ``ILSVRC2012_validation_ground_truth.txt``, where a line is only the number of a class in ``meta.mat`` beside the
    list.
    """
    paths = sorted(map(Path, image_paths(directory))) if directory.is_dir() else []
    images = {path.stem: path for path in paths}
    if len(images) < len(paths):
        raise UserError(f"{directory} has {len(paths) - len(images)} images with the name of another image")

    def image(name: str) -> str:  # lists give names with or without the extension
        return Path(name).name if Path(name).name in images else Path(name).stem

    named = {name: index for index, name in enumerate(classes)}
    numbered = {str(index): index for index in range(len(classes))}
    try:
        text = labels.read_text(encoding="utf-8-sig")
        lines = [_image_and_class(line, named) for line in text.splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{labels} cannot be read as a list of labels: {error}") from error
    if all(len(line) == 1 for line in lines):
        if len(lines) == len(images) + 1 and lines[0][0] not in named and not lines[0][0].isdecimal():
            del lines[0]
        if len(lines) != len(images):
            raise UserError(f"{labels} has {len(lines)} labels for the {len(images)} images in {directory}")
        column = [stated for (stated,) in lines]
        if all(map(str.isdecimal, column)) and not {*column} <= named.keys():
            column = _names_of_the_kit(labels, column)
        lines = [[name, stated] for name, stated in zip(images, column, strict=True)]
    elif lines[0][-1] not in named | numbered and image(lines[0][0]) not in images:
        del lines[0]
    if short := [line for line in lines if len(line) == 1]:
        raise UserError(f"{labels} has a line {short[0][0]!r} without a class")
    labelled = {image(name): label for name, label, *_ in lines}
    if len(labelled) < len(lines):
        raise UserError(f"{labels} has {len(lines) - len(labelled)} labels for an image that already has one")
    stated = {*labelled.values()}
    indices = named if stated <= named.keys() else numbered
    if not stated <= indices.keys():
        unknown = min(stated - named.keys() - numbered.keys(), default=min(stated - named.keys()))
        raise UserError(f"{labels} names a class {unknown!r} that has no directory of training images")
    if differing := sorted(images.keys() ^ labelled.keys()):
        raise UserError(
            f"{labels} and {directory} do not match: {len(differing)} names are in one only, such as {differing[0]}"
        )
    return [(str(path), indices[labelled[stem]]) for stem, path in images.items()]


def _image_and_class(line: str, classes: Collection[str]) -> list[str]:
    """Return the image that a line names, and its class if there is one. Kaggle's lists have more after the class."""
    if line.strip() in classes:  # a class alone, whose name may have spaces
        return [line.strip()]
    name, *rest = next(csv.reader([line], skipinitialspace=True)) if "," in line else line.split(maxsplit=1)
    stated = rest[0].strip() if rest else ""
    return [name.strip(), *([stated] if stated in classes else stated.split()[:1])]


def _names_of_the_kit(labels: Path, numbers: list[str]) -> list[str]:
    """Return the names of classes, given their numbers in ImageNet's development kit."""
    from scipy.io import loadmat

    table = labels.with_name("meta.mat")
    if not table.is_file():
        raise UserError(f"{labels} gives classes by number, and {table}, which gives their names, is missing")
    try:
        synsets = loadmat(table, squeeze_me=True)["synsets"]
        names = {str(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    except Exception as error:  # SciPy raises many types on damaged bytes
        raise UserError(f"{table} cannot be read: {error}") from error
    if unknown := [number for number in numbers if number not in names]:
        raise UserError(f"{labels} names a class {unknown[0]!r} that is not in {table}")
    return [names[number] for number in numbers]
