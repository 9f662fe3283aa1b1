"""Tiny ImageNet, from its files as they are distributed."""

from __future__ import annotations

from pathlib import Path

from lightning_subnets.datamodules.image_files import class_names, list_files
from lightning_subnets.datamodules.in_memory import InMemoryDataModule
from lightning_subnets.datamodules.label_lists import list_labelled
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.errors import UserError

SOURCE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


class TinyImageNet(InMemoryDataModule):
    """100,000 training and 10,000 test images of 64x64 pixels in 200 of ImageNet's classes.

    Training images are padded by 4 pixels, then cut and mirrored at random. The test set is ``val``, because the labels
    of ``test`` were never published. The images take 1.4 GB of memory.

    Args:
        root: directory with ``wnids.txt``, ``train/<class>/images/*.JPEG``, ``val/images/*.JPEG`` and
            ``val/val_annotations.txt``.
        batch_size: images per step and process.
        validation_fraction: fraction of the training set that is held out; with 0, validation is on ``val``.
        seed: seed of the order of the samples, their augmentation and the held-out images.
        permutation: seed of a fixed random order of the pixels after the augmentation; null leaves them in place.

    Source: Le and Yang 2015, "Tiny ImageNet Visual Recognition Challenge"; the augmentation of Tanaka et al. 2020
        (SynFlow), in their public code.
    """

    # As in SynFlow's public code, to 0.001. Deviations of 0.23, also in use, are means of those within single images.
    mean, std = (0.480, 0.448, 0.398), (0.277, 0.269, 0.282)
    image_shape = (3, 64, 64)
    padding = 4

    def __init__(
        self,
        root: str = "data/tiny-imagenet-200",
        batch_size: int = 128,
        validation_fraction: float = 0.0,
        seed: int = 0,
        permutation: int | None = None,
    ) -> None:
        super().__init__(batch_size, validation_fraction, seed)
        self.root, self.permutation = Path(root), permutation
        for part in ("wnids.txt", "train", "val/images", "val/val_annotations.txt"):
            if not (self.root / part).exists():
                raise UserError(
                    f"{self.root} holds no {part}: unzip {SOURCE} in data/, and set --data.root to the "
                    "tiny-imagenet-200 in it; see data/README.md"
                )

    @property
    def classes(self) -> list[str]:
        """The sorted WordNet ids, as in an image folder of ``train``; wnids.txt has a different order."""
        names, folder = self.root / "wnids.txt", self.root / "train"
        try:
            named = set(names.read_text().split())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{names} cannot be read as a list of classes: {error}") from error
        if differing := sorted(named ^ set(class_names(folder))):
            raise UserError(
                f"{names} and the directories in {folder} do not match: {len(differing)} classes are in one only, such "
                f"as {differing[0]}; unzip {SOURCE} again"
            )
        return sorted(named)

    def load(self, *, train: bool) -> Batch:
        if train:
            return self.read(list_files(self.root / "train", self.classes))
        annotations = self.root / "val" / "val_annotations.txt"
        return self.read(list_labelled(self.root / "val" / "images", annotations, self.classes))
