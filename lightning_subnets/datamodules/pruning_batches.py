"""The images that weights are scored on before training."""

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
    """Batches with a number of training images of each class, normalised, on one device and in one precision.

    They are the first of each class in the order of the first epoch, augmented as there: a function of the data's seed,
    the same on every rank. Of a class that has fewer, all of its images. What is kept is uint8, in the host's memory: a
    thousand classes by ten images of 224 pixels are 1.5 GB.

    Args:
        data: set up.
        per_class: images of each class.
        like: a tensor with the device of the batches and the precision of their images.
        by_class: sort the images by class and make an even number of batches, so that the first half of the batches
            has the first half of the images.
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
        # Of about one size, and never a single image, which a norm makes nothing of.
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
        chosen = _rank_in_class(one_hot) <= wanted[labels]
        wanted -= one_hot[chosen].sum(dim=0)
        yield images[chosen], labels[chosen]
        if not wanted.any():
            break


def _rank_in_class(one_hot: Tensor) -> Tensor:
    """Of each sample the how-manieth of its class it is, from 1."""
    return (one_hot.cumsum(dim=0) * one_hot).sum(dim=1)


def scoring(method: Method, data: LightningDataModule | None, *, like: Tensor, seed: int) -> PruningData:
    """What a method chooses its masks from, before a run.

    Args:
        like: a weight of the network; the images have its device and precision.

    Raises:
        ValueError: if it needs images, or their shape, and the data are no ``ImageDataModule``.
    """
    if isinstance(data, ImageDataModule):
        if method.requires != "batches":
            return PruningData((), data.image_shape, seed)
        batches = PruningBatches(data, method.samples_per_class, like, by_class=method.by_class)
        return PruningData(batches, data.image_shape, seed)
    if method.requires:
        raise UserError(
            f"{type(method).__name__} chooses its masks from {method.requires}, which an ImageDataModule has and "
            f"{type(data).__name__} has not: make yours a subclass of it"
        )
    return PruningData(seed=seed)
