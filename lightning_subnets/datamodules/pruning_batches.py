"""The training images that weights are scored on before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.errors import UserError
from lightning_subnets.masking.method import Method, PruningData


class PruningBatches(Sequence[Batch]):
    """Batches with a fixed number of training images of each class, normalised, on one device and in one dtype.

    They are the first images of each class in the first epoch, augmented as in that epoch: a function of the data's
    seed, the same on every rank. A class with fewer images gives all of them. The images are kept as uint8 in host
    memory; 1,000 classes of 10 images of 224 pixels take 1.5 GB.

    Args:
        data: a data module after ``setup``.
        per_class: images of each class.
        like: a tensor with the device of the batches and the dtype of their images.
        by_class: sort the images by class and make an even number of batches, so that the first half of the batches
            contains the first half of the images.
    """

    def __init__(self, data: ImageDataModule, per_class: int, like: Tensor, *, by_class: bool = False) -> None:
        self.data, self.device, self.dtype = data, like.device, like.dtype
        found = zip(*_first_of_each_class(data, per_class), strict=True)
        images, labels = (torch.cat(each) for each in found)
        if by_class:
            order = labels.argsort(stable=True)
            images, labels = images[order], labels[order]
        total = len(labels)
        multiple = 2 if by_class and total >= 4 else 1
        # The batches have similar sizes, at least 2, because batch norm cannot use a single image.
        count = multiple * max(1, min(-(-total // (multiple * data.batch_size)), total // (2 * multiple)))
        parts = (torch.tensor_split(each, count) for each in (images, labels))
        self._batches = list(zip(*parts, strict=True))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        images, labels = self._batches[index]
        return self.data.normalize(images.to(self.device)).to(self.dtype), labels.to(self.device)


def _first_of_each_class(data: ImageDataModule, per_class: int) -> Iterator[Batch]:
    loader = data.train_dataloader()
    loader.sampler.rank, loader.sampler.num_replicas = 0, 1
    wanted = torch.full((len(data.classes),), per_class)
    for images, labels in loader:
        images, labels = images.cpu(), labels.cpu()
        one_hot = torch.nn.functional.one_hot(labels, len(wanted))
        rank_in_class = (one_hot.cumsum(dim=0) * one_hot).sum(dim=1)  # from 1
        chosen = rank_in_class <= wanted[labels]
        wanted -= one_hot[chosen].sum(dim=0)
        yield images[chosen], labels[chosen]
        if not wanted.any():
            break


def pruning_data(method: Method, data: LightningDataModule | None, *, like: Tensor, seed: int) -> PruningData:
    """Return the data that a method chooses its masks from before training.

    Args:
        method: a method whose ``requires`` names the data.
        data: the run's data module.
        like: a weight of the network; the images get its device and dtype.
        seed: seed of the weights, and of everything that the method draws.
    """
    if isinstance(data, ImageDataModule):
        if method.requires != "batches":
            return PruningData((), data.image_shape, seed)
        batches = PruningBatches(data, method.samples_per_class, like, by_class=method.by_class)
        return PruningData(batches, data.image_shape, seed)
    if method.requires:
        raise UserError(
            f"{type(method).__name__} chooses its masks from {method.requires}, which {type(data).__name__} does not "
            "provide: make it a subclass of ImageDataModule"
        )
    return PruningData(seed=seed)
