"""Image files: which files of a folder are images, which class each belongs to, and how one is read."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image, ImageFile

from lightning_subnets.errors import UserError

Files = list[tuple[str, int]]

# Pillow has Ghostscript run an EPS file as a program, and reads only the size of an MPEG file.
_NO_PIXELS = {"EPS", "MPEG"}
_LISTED = 5


def read_image(path: Path | str) -> Image.Image:
    """Return the image in a file, or the first of its frames, as RGB with 8 bits a channel.

    Grey of 16 bits is scaled to 8 bits, 65535 to 255. For colour of 16 bits a channel, Pillow keeps the upper 8 bits.
    Transparency is dropped.

    Raises:
        ValueError: if the file is not a whole image, or its format does not say which value is white. The error names
            the file.
    """
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                return _eight_bits(path, image).convert("RGB")
            return image.convert("RGB")
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image ({error}): mend it or take it away") from error


def _eight_bits(path: Path | str, image: Image.Image) -> Image.Image:
    """Scale an image of more than 8 bits a pixel to 8 bits; Pillow's own conversion would clip it at 255."""
    white = _white(image)
    if white is None:
        raise UserError(
            f"{path} has pixels of mode {image.mode}, and {image.format} does not say which value is white: save it "
            "with 8 or 16 bits a channel and black as 0, or remove it"
        )
    return Image.fromarray(np.rint(np.asarray(image) * (255 / white)).astype(np.uint8))


def _white(image: Image.Image) -> int | None:
    """Return the value of white in an image of mode I or F; None if its format does not define white, or black as 0."""
    if image.mode == "F":
        return None
    if image.format in ("PNG", "PPM", "JPEG2000"):  # Pillow scales the last two to 16 bits
        return 2**16 - 1
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC_INTERPRETATION) == _BLACK_IS_ZERO:
        return int(2 ** tags[_BITS_PER_SAMPLE][0] - 1)
    return None


def common_classes(train: Path, test: Path) -> list[str]:
    """The classes of two image folders, sorted.

    Raises:
        ValueError: if a folder has no class, or one has others than the other.
    """
    ours, theirs = class_names(train), class_names(test)
    for folder, classes in ((train, ours), (test, theirs)):
        if not classes:
            raise UserError(f"{folder} is missing or empty: there should be a directory of images for each class in it")
    if ours != theirs:
        raise UserError(
            f"{train} has {len(ours)} classes and {test} has {len(theirs)}; only one of them has "
            + ", ".join(sorted(set(ours) ^ set(theirs))[:_LISTED])
        )
    return ours


def class_names(folder: Path) -> list[str]:
    """Return the classes of an image folder, sorted: its subdirectories, and its links to other directories.

    Hidden directories are not classes, nor are links to the folder itself or to a directory that contains it.
    """
    base = os.path.realpath(folder)
    return sorted(path.name for path in folder.glob("*/") if not (_hidden(path.name) or _holds(path, base)))


def list_files(folder: Path, classes: list[str]) -> Files:
    """Return the image files of a folder, each with its label: the index of its directory in the classes.

    A warning counts the files that are not images, by their endings.

    Raises:
        ValueError: if a class has no image, or a directory cannot be read.
    """
    files: Files = []
    empty, left_out = [], Counter[str]()
    for name, label in sorted(zip(classes, range(len(classes)), strict=True)):
        paths = image_paths(folder / name, left_out)
        files += [(path, label) for path in paths]
        if not paths:
            empty.append(name)
    if left_out:
        kinds = ", ".join(f"{ending or 'no ending'} ({count})" for ending, count in left_out.most_common(_LISTED))
        more = ", ..." if len(left_out) > _LISTED else ""
        rank_zero_warn(
            f"{folder}: {left_out.total()} files are left out, because Pillow does not read them: {kinds}{more}"
        )
    if empty:
        more = ", ..." if len(empty) > _LISTED else ""
        raise UserError(
            f"{folder} has no image of {len(empty)} classes, {', '.join(empty[:_LISTED])}{more}: put images into their "
            "directories, or remove the directories"
        )
    return files


def image_paths(folder: Path, left_out: Counter[str] | None = None) -> list[str]:
    """Return the paths of the image files in a directory and below, sorted by directory and name.

    Hidden files and directories are skipped. Links to directories are followed, except back to a directory that
    contains the link, and each directory is read once.

    Args:
        folder: the directory.
        left_out: is increased by the number of files that are not images, by ending. Files that end in .txt do not
            count, because Tiny ImageNet keeps them beside its images.

    Raises:
        ValueError: if a directory cannot be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error

    base = os.path.realpath(folder)
    seen, found = {base}, []
    for root, directories, names in os.walk(folder, followlinks=True, onerror=fail):
        below = []
        for name in sorted(directories):
            place = os.path.join(root, name)
            real = os.path.realpath(place)
            if not (_hidden(name) or real in seen or _holds(place, base)):
                below.append(name)
                seen.add(real)
        directories[:] = below
        images = []
        for name in sorted(names):
            ending = os.path.splitext(name)[1].lower()
            if _hidden(name):
                continue
            if ending in image_endings():
                images.append(os.path.join(root, name))
            elif left_out is not None and ending != ".txt":
                left_out[ending] += 1
        found.append((root, images))
    return [path for _, images in sorted(found) for path in images]


@cache
def image_endings() -> frozenset[str]:
    """Return the endings of the files that Pillow can read as images, in lower case."""
    formats = Image.registered_extensions()  # this call loads all of Pillow's plugins
    return frozenset(
        ending for ending, kind in formats.items() if kind in Image.OPEN and kind not in _NO_PIXELS and _decodes(kind)
    )


def _decodes(kind: str) -> bool:
    """Return whether Pillow has a decoder for a format, and not only a stub."""
    factory = Image.OPEN[kind][0]
    return not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _holds(path: Path | str, directory: str) -> bool:
    """Return whether a path leads to this directory, given without links, or to one that contains it."""
    real = os.path.realpath(path)
    return os.path.commonpath([real, directory]) == real


# Tags and a value of TIFF 6.0.
_BITS_PER_SAMPLE, _PHOTOMETRIC_INTERPRETATION, _BLACK_IS_ZERO = 258, 262, 1
