"""Image files: which files of a folder are images, which class each is of, and the pixels in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from lightning_subnets.errors import UserError


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
    """The classes of two image folders, sorted: their subdirectories.

    Raises:
        ValueError: if a folder has no subdirectory, or one has others than the other.
    """
    ours, theirs = (sorted(path.name for path in folder.glob("*/")) for folder in (train, test))
    for folder, classes in ((train, ours), (test, theirs)):
        if not classes:
            raise UserError(f"{folder} is missing or empty: there should be a directory of images for each class in it")
    if ours != theirs:
        raise UserError(
            f"{train} has {len(ours)} classes and {test} has {len(theirs)}; only one of them has "
            + ", ".join(sorted(set(ours) ^ set(theirs))[:5])
        )
    return ours


def list_files(folder: Path, classes: list[str]) -> list[tuple[str, int]]:
    """The image files of a folder, and the label of each: the place of its directory among the classes.

    Raises:
        ValueError: if there is no image of a class.
    """
    labels = {name: label for label, name in enumerate(classes)}
    try:
        return make_dataset(folder, labels, extensions=IMG_EXTENSIONS)  # type: ignore[no-any-return]
    except FileNotFoundError as error:
        raise UserError(f"{folder}: {error}") from error


# Of TIFF 6.0.
_BITS_PER_SAMPLE, _PHOTOMETRIC_INTERPRETATION, _BLACK_IS_ZERO = 258, 262, 1
