"""Image files: which files of a folder are images, which class each is of, and the pixels in one."""

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

_NO_PIXELS = {"EPS", "MPEG"}  # Pillow knows them: one is a program that Ghostscript runs, of the other it reads a size
_LISTED = 5


def read_image(path: Path | str) -> Image.Image:
    """The image in a file, RGB of 8 bits a channel; of several frames the first.

    16 bits of grey are scaled to 8, 65535 to 255. Of 16 bits a colour Pillow itself keeps the upper 8. Transparency is
    left out.

    Raises:
        ValueError: naming the file, if it is not a whole image, or its format does not say which value is white.
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
    """An image of integers of more than 8 bits as one of 8, which Pillow's own conversion would clip to 255."""
    white = _white(image)
    if white is None:
        raise UserError(
            f"{path} has pixels of mode {image.mode}, and {image.format} does not say which value is white: save it "
            "with 8 or 16 bits a channel, black as 0, or take it away"
        )
    return Image.fromarray(np.rint(np.asarray(image) * (255 / white)).astype(np.uint8))


def _white(image: Image.Image) -> int | None:
    """The value of white in an image of mode I or F, if its format defines one, and black as 0."""
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
    """The classes of an image folder, sorted: its subdirectories, or links to directories elsewhere.

    Hidden directories are no classes, nor are links to the folder itself or to one that it lies in.
    """
    base = os.path.realpath(folder)
    return sorted(path.name for path in folder.glob("*/") if not (_hidden(path.name) or _holds(path, base)))


def list_files(folder: Path, classes: list[str]) -> Files:
    """The image files of a folder, and the label of each: the place of its directory among the classes.

    A warning counts the other files, by their endings.

    Raises:
        ValueError: if there is no image of a class, or a directory cannot be read.
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
        rank_zero_warn(f"{folder}: {left_out.total()} files are left out, which Pillow does not read: {kinds}{more}")
    if empty:
        more = ", ..." if len(empty) > _LISTED else ""
        raise UserError(
            f"{folder} has no image of {len(empty)} classes, {', '.join(empty[:_LISTED])}{more}: put images into their "
            "directories, or take the directories away"
        )
    return files


def image_paths(folder: Path, left_out: Counter[str] | None = None) -> list[str]:
    """The paths of the image files in a directory and below, sorted by directory and name.

    Hidden files and directories are passed over. Links to directories are followed, but never back to a directory that
    the link lies in, and each directory is read once.

    Args:
        left_out: counts the files that are no images by their endings, but for texts, which Tiny ImageNet keeps beside
            its images.

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
    """The endings of the files that Pillow reads here, in lower case."""
    formats = Image.registered_extensions()  # has all of Pillow's formats known
    return frozenset(
        ending for ending, kind in formats.items() if kind in Image.OPEN and kind not in _NO_PIXELS and _decodes(kind)
    )


def _decodes(kind: str) -> bool:
    """Whether Pillow has a decoder of a format, and not only a place for one."""
    factory = Image.OPEN[kind][0]
    return not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _holds(path: Path | str, directory: str) -> bool:
    """Whether a path leads to this directory or to one that it lies in; the directory without links."""
    real = os.path.realpath(path)
    return os.path.commonpath([real, directory]) == real


# Of TIFF 6.0.
_BITS_PER_SAMPLE, _PHOTOMETRIC_INTERPRETATION, _BLACK_IS_ZERO = 258, 262, 1
