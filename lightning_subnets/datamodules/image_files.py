"""Image files: which files of a folder are images, which class each is of, and the pixels in one."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from lightning_subnets.errors import UserError


def read_image(path: Path | str) -> Image.Image:
    """The image in a file, RGB.

    Raises:
        ValueError: naming the file, if it is not a whole image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image ({error}): mend it or take it away") from error


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
