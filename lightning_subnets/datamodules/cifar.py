"""CIFAR-10 and CIFAR-100, from torchvision's files or from a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.error import URLError

import torch

from lightning_subnets.datamodules.image_files import common_classes, list_files
from lightning_subnets.datamodules.in_memory import InMemoryDataModule
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.errors import UserError

if TYPE_CHECKING:
    from torchvision import datasets


class CIFAR10(InMemoryDataModule):
    """50,000 training and 10,000 test images of 32x32 pixels in 10 classes.

    Training images are padded, then cut and mirrored at random.

    Args:
        root: directory with torchvision's ``cifar-10-batches-py``, or with an image folder,
            ``train/<class>/*`` and ``test/<class>/*``.
        batch_size: images per step and process.
        validation_fraction: fraction of the training set that is held out; with 0, validation is on the test set.
        download: download torchvision's files if they are missing.
        seed: seed of the order of the samples, their augmentation and the held-out images.
        padding: pixels on each side of a training image, by default 4 as in the paper, 2 in the fast recipe. With 0,
            images are neither cut nor mirrored.
        permutation: seed of a fixed random order of the pixels after the augmentation; null leaves them in place.

    Source: Krizhevsky 2009.
    """

    base_folder: ClassVar[str] = "cifar-10-batches-py"
    mean, std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    image_shape = (3, 32, 32)

    def __init__(
        self,
        root: str = "data/cifar10",
        batch_size: int = 128,
        validation_fraction: float = 0.0,
        download: bool = False,
        seed: int = 0,
        padding: int = 4,
        permutation: int | None = None,
    ) -> None:
        super().__init__(batch_size, validation_fraction, seed)
        if not 0 <= padding <= 32:
            raise UserError(f"padding = {padding} is outside [0, 32], the size of an image")
        self.root, self.download, self.padding, self.permutation = Path(root), download, padding, permutation
        self._is_folder = (self.root / "train").is_dir()
        if not download and not self._is_folder and not (self.root / self.base_folder).is_dir():
            raise UserError(
                f"{self.root} holds neither {self.base_folder} nor train/<class>/ and test/<class>/: let torchvision "
                "download the files with --data.download=true, or see data/README.md"
            )

    @property
    def classes(self) -> list[str]:
        if not self._is_folder:
            return list(self._torchvision(train=False).classes)
        return common_classes(self.root / "train", self.root / "test")

    def prepare_data(self) -> None:
        if self.download and not self._is_folder:
            try:
                self._torchvision(train=False, download=True)
            except (URLError, ConnectionError, TimeoutError) as error:
                raise UserError(
                    f"{self.base_folder} cannot be downloaded ({error}): run the command once on a machine with "
                    f"internet access, or copy that directory into {self.root}"
                ) from error

    def _torchvision(self, *, train: bool, download: bool = False) -> datasets.CIFAR10:
        from torchvision import datasets

        kinds = {each.base_folder: each for each in (datasets.CIFAR10, datasets.CIFAR100)}
        try:
            return kinds[self.base_folder](self.root, train=train, download=download)
        except RuntimeError as error:
            if download:
                raise UserError(
                    f"what was downloaded from {kinds[self.base_folder].url} into {self.root} is not the whole archive "
                    f"({error}): run the command again, with no other download into this directory at the same time. "
                    "If it fails again, a proxy may replace the file: copy it from another machine"
                ) from error
            raise UserError(
                f"{self.root / self.base_folder} is incomplete or damaged ({error}): remove it, and let torchvision "
                "download it again with --data.download=true"
            ) from error

    def load(self, *, train: bool) -> Batch:
        if not self._is_folder:
            data = self._torchvision(train=train)
            return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)
        return self.read(list_files(self.root / ("train" if train else "test"), self.classes))


class CIFAR100(CIFAR10):
    """Like ``CIFAR10``, with 100 classes of 500 training and 100 test images."""

    base_folder = "cifar-100-python"
    mean, std = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)

    def __init__(
        self,
        root: str = "data/cifar100",
        batch_size: int = 128,
        validation_fraction: float = 0.0,
        download: bool = False,
        seed: int = 0,
        padding: int = 4,
        permutation: int | None = None,
    ) -> None:
        super().__init__(root, batch_size, validation_fraction, download, seed, padding, permutation)
