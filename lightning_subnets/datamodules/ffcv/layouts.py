"""Where ImageNet and its kin keep photographs and labels: directories of classes, or one directory and a list."""

from __future__ import annotations

import re
from pathlib import Path

from scipy.io import loadmat

from lightning_subnets.datamodules.image_files import Files, common_classes, image_paths, list_files
from lightning_subnets.errors import UserError

# Of ImageNet's development kit, of Kaggle, of Caffe, and of Tiny ImageNet; from the source or the images' directory.
LABEL_LISTS = (
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
    "data/ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_validation_ground_truth.txt",
    "LOC_val_solution.csv",
    "val.txt",
    "val_annotations.txt",
)


def find_images(source: Path, train: str, val: str, val_labels: Path | None) -> tuple[list[str], Files, Files]:
    """The classes, and path and label of each training and each validation image.

    Training images lie in ``train/<class>/``, at any depth. Validation images lie in ``val/<class>/``, or all
    together in ``val`` with a list of labels: ``val_labels``, or the first there is of ``LABEL_LISTS``.

    Raises:
        ValueError: if a directory or the list is missing, or images and list do not fit together.
    """
    train_dir, val_dir = source / train, source / val
    classes = common_classes(train_dir, train_dir)
    labels = val_labels
    if labels is None and not any((val_dir / name).is_dir() for name in classes):
        labels = _label_list(source, val_dir)
    if labels is not None:
        return classes, list_files(train_dir, classes), list_labelled(val_dir, labels, classes)
    classes = common_classes(train_dir, val_dir)
    return classes, list_files(train_dir, classes), list_files(val_dir, classes)


def _label_list(source: Path, val_dir: Path) -> Path | None:
    places = (directory / name for directory in (source, val_dir) for name in LABEL_LISTS)
    return next((place for place in places if place.is_file()), None)


def list_labelled(directory: Path, labels: Path, classes: list[str]) -> Files:
    """Path and label of each image of a directory, by a list with a line for each.

    A line is an image's name and its class, by name or by number in the order of the names, then anything; or,
    in ImageNet's ``ILSVRC2012_validation_ground_truth.txt``, the class alone, by its number in ``meta.mat`` beside
    it, in the order of the images' names. A headline is left out.

    Raises:
        ValueError: if the list is missing, an image has no label, a label no image, or a class is unknown.
    """
    paths = sorted(map(Path, image_paths(directory))) if directory.is_dir() else []
    images = {path.stem: path for path in paths}
    if len(images) < len(paths):
        raise UserError(f"{directory} has {len(paths) - len(images)} images of a name that another has too")
    try:
        lines = [re.split(r"[\s,]+", line.strip()) for line in labels.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{labels} cannot be read as a list of labels: {error}") from error
    numbers = {name: number for number, name in enumerate(classes)}
    numbers |= {str(number): number for number in range(len(classes)) if str(number) not in numbers}
    if all(len(line) == 1 for line in lines):
        if len(lines) != len(images):
            raise UserError(f"{labels} has {len(lines)} labels for the {len(images)} images in {directory}")
        lines = _named_by_the_kit(labels, [number for (number,) in lines], list(images))
    elif lines[0][-1] not in numbers and Path(lines[0][0]).stem not in images:
        del lines[0]
    if short := [line for line in lines if len(line) == 1]:
        raise UserError(f"{labels} has a line {short[0][0]!r} without a class")
    labelled = {Path(name).stem: label for name, label, *_ in lines}
    if len(labelled) < len(lines):
        raise UserError(f"{labels} has {len(lines) - len(labelled)} labels for an image that has one already")
    if unknown := [name for name in labelled.values() if name not in numbers]:
        raise UserError(f"{labels} names a class {unknown[0]!r} that has no directory of training images")
    if apart := sorted(images.keys() ^ labelled.keys()):
        raise UserError(f"{labels} and {directory} do not fit: {len(apart)} names are in one only, {apart[0]} for one")
    return [(str(path), numbers[labelled[stem]]) for stem, path in images.items()]


def _named_by_the_kit(labels: Path, numbers: list[str], images: list[str]) -> list[list[str]]:
    """Lines of image and class, from the classes' numbers in ImageNet's development kit."""
    table = labels.with_name("meta.mat")
    if not table.is_file():
        raise UserError(f"{labels} tells classes by numbers of which {table} tells the names, and that is missing")
    try:
        synsets = loadmat(table, squeeze_me=True)["synsets"]
        names = {str(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    except Exception as error:  # SciPy raises whatever the bytes lead it to
        raise UserError(f"{table} cannot be read: {error}") from error
    if unknown := [number for number in numbers if number not in names]:
        raise UserError(f"{labels} names a class {unknown[0]!r} that {table} does not have")
    return [[image, names[number]] for image, number in zip(images, numbers, strict=True)]
