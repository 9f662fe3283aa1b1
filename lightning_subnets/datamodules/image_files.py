"""Image files: which files of a folder are images, which class each belongs to, and their pixels."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_subnets.errors import UserError, listed

if TYPE_CHECKING:
    from PIL.Image import Image

Files = list[tuple[str, int]]  # path and label of each image

_BITS_PER_SAMPLE, _PHOTOMETRIC_INTERPRETATION, _BLACK_IS_ZERO = 258, 262, 1  # tags and a value of TIFF 6.0


def read_image(path: Path | str) -> Image:
    """Return the image in a file, or the first of its frames, as RGB with 8 bits a channel.

    Grey of 16 bits is scaled to 8 bits, 65535 to 255. For colour of 16 bits a channel, Pillow keeps the upper 8 bits.
    Transparency is dropped. The orientation in EXIF is ignored, as torchvision's ``ImageFolder`` does;
    only TIFF files are turned, by Pillow.

    Raises:
        UserError: if the file is not a whole image, or its format does not define which value is white.
    """
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            return (_eight_bits(path, image) if image.mode[0] in "IF" else image).convert("RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged bytes
        raise UserError(f"{path} is not a readable image ({error}): repair or remove it") from error


def _eight_bits(path: Path | str, image: Image) -> Image:
    """Scale an image of mode I or F to 8 bits; Pillow's own conversion would clip it at 255."""
    import PIL.Image

    tags = getattr(image, "tag_v2", {})
    if image.format in ("PNG", "PPM", "JPEG2000") and image.mode != "F":  # Pillow scales the last two to 16 bits
        white = 2**16 - 1
    elif image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC_INTERPRETATION) == _BLACK_IS_ZERO:
        white = int(2 ** tags[_BITS_PER_SAMPLE][0] - 1)
    else:
        raise UserError(
            f"{path} has pixels of mode {image.mode}, and {image.format} does not define which value is white: save it "
            "with 8 or 16 bits a channel and black as 0, or remove it"
        )
    return PIL.Image.fromarray(np.rint(np.asarray(image) * (255 / white)).astype(np.uint8))


def common_classes(train: Path, test: Path) -> list[str]:
    """Return the sorted classes of two image folders, which must be the same."""
    ours, theirs = class_names(train), class_names(test)
    for folder, classes in ((train, ours), (test, theirs)):
        if not classes:
            state = "has no directories" if folder.is_dir() and any(folder.iterdir()) else "is missing or empty"
            raise UserError(
                f"{folder} {state}: it should contain a directory of images for each class. If validation images are "
                "all in one directory, a list gives their labels, see data/README.md"
            )
    if differing := sorted(set(ours) ^ set(theirs)):
        raise UserError(
            f"{train} has {len(ours)} classes and {test} has {len(theirs)}; only one of them has {listed(differing)}"
        )
    return ours


def class_names(folder: Path) -> list[str]:
    """Return the sorted names of a folder's subdirectories, except hidden ones and links that lead back up."""
    above = _with_parents(folder)
    return sorted(
        path.name for path in folder.glob("*/") if not path.name.startswith(".") and os.path.realpath(path) not in above
    )


def list_files(folder: Path, classes: list[str]) -> Files:
    """Return the image files of a folder, each with its label: the index of its directory in the classes.

    Each class must have an image. A warning counts the files that are not images, by extension.
    """
    files: Files = []
    empty, left_out = [], Counter[str]()
    for label, name in sorted(enumerate(classes), key=itemgetter(1)):
        paths = image_paths(folder / name, left_out)
        files += [(path, label) for path in paths]
        if not paths:
            empty.append(name)
    if left_out:
        kinds = [f"{extension or 'no extension'} ({count})" for extension, count in left_out.most_common()]
        rank_zero_warn(
            f"{folder}: {left_out.total()} files are left out, because Pillow does not read them: {listed(kinds)}"
        )
    if empty:
        raise UserError(
            f"{folder} has no image of {len(empty)} classes, {listed(empty)}: put images into their directories, "
            "or remove the directories"
        )
    return files


def image_paths(folder: Path, left_out: Counter[str] | None = None) -> list[str]:
    """Return the paths of the image files in a directory and below, sorted by directory and name.

    Hidden files and directories are skipped. Links to directories are followed, except back to a directory that
    contains the link, and each directory is read once. ``left_out`` counts the other files by extension, except those
    that end in .txt, because Tiny ImageNet keeps them beside its images.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error

    seen, found = _with_parents(folder), []
    for root, directories, names in os.walk(folder, followlinks=True, onerror=fail):
        below = sorted(name for name in directories if not name.startswith("."))
        directories.clear()
        for name in below:
            real = os.path.realpath(os.path.join(root, name))
            if real not in seen:
                directories.append(name)
                seen.add(real)
        images = []
        for name in sorted(name for name in names if not name.startswith(".")):
            extension = os.path.splitext(name)[1].lower()
            if extension in _image_extensions():
                images.append(os.path.join(root, name))
            elif left_out is not None and extension != ".txt":
                left_out[extension] += 1
        found.append((root, images))
    return [path for _, images in sorted(found) for path in images]


@cache
def _image_extensions() -> frozenset[str]:
    """Return the lower-case extensions of the files that Pillow can decode."""
    from PIL import Image, ImageFile

    def decodes(kind: str) -> bool:
        factory = Image.OPEN[kind][0] if kind in Image.OPEN else ImageFile.StubImageFile
        is_stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
        # Pillow runs an EPS file as a program in Ghostscript, and reads only the size of an MPEG file.
        return not is_stub and kind not in ("EPS", "MPEG")

    extensions = Image.registered_extensions()  # this call also loads the plugins that fill Image.OPEN
    return frozenset(extension for extension, kind in extensions.items() if decodes(kind))


def _with_parents(folder: Path) -> set[str]:
    """Return a directory and all directories that contain it, without links."""
    real = Path(os.path.realpath(folder))
    return {str(real), *map(str, real.parents)}
