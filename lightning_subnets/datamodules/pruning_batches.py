"""The training images that weights are scored on before training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.labelled_batch import hard_labels
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.datamodules.seeded_loader import isolated_rng, seeded
from lightning_subnets.errors import UserError
from lightning_subnets.masking.method import Method, PruningData

Checked = Callable[[Any], tuple[Batch, int]]


class PruningBatches(Sequence[Batch]):
    """Batches in host memory, which are given on one device, normalised and in one dtype.

    Args:
        batches: of images and labels.
        like: a tensor with the device of the batches and the dtype of their images.
        normalize: of images on the device.
    """

    def __init__(
        self, batches: list[Batch], like: Tensor, normalize: Callable[[Tensor], Tensor] = lambda images: images
    ) -> None:
        self._batches, self._normalize = batches, normalize
        self.device, self.dtype = like.device, like.dtype

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        images, labels = self._batches[index]
        return self._normalize(images.to(self.device)).to(self.dtype), labels.to(self.device)


def pruning_data(
    method: Method, data: LightningDataModule | None, *, like: Tensor, seed: int, checked: Checked | None = None
) -> PruningData:
    """Return the data that a method chooses its masks from before training.

    They are a number of images of each class, or only the shape of an image.

    Args:
        method: a method whose ``requires`` names the data.
        data: the run's data module, after ``setup``.
        like: a weight of the network; the images get its device and dtype.
        seed: seed of the weights, and of everything that the method draws.
        checked: returns a batch as the training step gets it, and the number of the network's outputs; an
            ``ImageDataModule`` needs none.
    """
    if isinstance(data, ImageDataModule):
        return _of_images(data, method, like, seed)
    if method.requires:
        if data is None or checked is None:
            raise UserError(f"{type(method).__name__} chooses its masks from training images: give a data module")
        return _of_own_loader(data, method, like, seed, checked)
    return PruningData(seed=seed)


def _of_images(data: ImageDataModule, method: Method, like: Tensor, seed: int) -> PruningData:
    """Return the first images of each class in the first epoch, augmented as in that epoch.

    They are a function of the data's seed, the same on every rank. A class with fewer images gives all of them. The
    images are kept as uint8 in host memory; 1,000 classes of 10 images of 224 pixels take 1.5 GB.
    """
    if method.requires != "batches":
        return PruningData((), data.image_shape, seed)
    loader = _train_loader(data)
    loader.sampler.rank, loader.sampler.num_replicas = 0, 1
    found = _first_of_each_class(loader, method.samples_per_class, len(data.classes))
    batches = _divided(found, data.batch_size, by_class=method.by_class)
    return PruningData(PruningBatches(batches, like, data.normalize), data.image_shape, seed)


def _of_own_loader(data: LightningDataModule, method: Method, like: Tensor, seed: int, checked: Checked) -> PruningData:
    """Return the first images of each class of a user's own data, as the training step gets them.

    The seed is that of the order and the augmentation of a loader that ``seeded`` knows, and of all that others draw. A
    class with fewer images is an error. The class of a soft label is that of its largest value.
    """
    name, loader = type(data).__name__, _train_loader(data)
    ours = seeded(loader, seed=seed, rank=0, ranks=1) if isinstance(loader, DataLoader) else None
    if ours is not None:
        ours.sampler.rank, ours.sampler.num_replicas = 0, 1  # also of a DistributedSampler
    with isolated_rng(seed):
        checked_batches = (checked(batch) for batch in ours or loader)
        if (first := next(checked_batches, None)) is None:
            raise UserError(
                f"{type(method).__name__} chooses its masks from training images, and the training loader of "
                f"{name} has no batch: look at what its data set reads, or set drop_last=False"
            )
        (images, labels), outputs = first
        shape, size = tuple(images.shape[1:]), len(images)
        if method.requires != "batches":
            return PruningData((), shape, seed)
        pairs = itertools.chain([(images, labels)], (batch for batch, _ in checked_batches))
        hard = ((images, hard_labels(labels)) for images, labels in pairs)
        found = list(_first_of_each_class(hard, method.samples_per_class, outputs))
    counts = torch.bincount(torch.cat([labels for _, labels in found]), minlength=outputs)
    if counts.min() < method.samples_per_class:
        raise UserError(
            f"{type(method).__name__} scores weights on {method.samples_per_class} images of each class, and the "
            f"training data of {name} have {counts.min()} of class {int(counts.argmin())}: set a smaller "
            f"samples_per_class, or give the network as many outputs as there are classes (it has {outputs})"
        )
    batches = _divided(found, size, by_class=method.by_class)
    return PruningData(PruningBatches(batches, like), shape, seed)


def _train_loader(data: LightningDataModule) -> Any:
    """Return the training loader of a data module after ``setup`` of any stage.

    Raises:
        ValueError: if there is none in an evaluation, because ``setup`` makes it for a fit only.
    """
    try:
        return data.train_dataloader()
    except UserError:
        raise
    except Exception as error:
        if data.trainer is None or data.trainer.state.fn == TrainerFn.FITTING:
            raise
        name = type(data).__name__
        raise UserError(
            f"the masks are chosen from training images: in this stage, {name}.train_dataloader() fails "
            f"({type(error).__name__}: {error}). Call trainer.fit first, or let {name}.setup make the training set in "
            "every stage"
        ) from error


def _first_of_each_class(batches: Iterable[Batch], per_class: int, classes: int) -> Iterator[Batch]:
    wanted = torch.full((classes,), per_class)
    for images, labels in batches:
        images, labels = images.cpu(), labels.cpu()
        one_hot = torch.nn.functional.one_hot(labels, classes)
        rank_in_class = (one_hot.cumsum(dim=0) * one_hot).sum(dim=1)  # from 1
        chosen = rank_in_class <= wanted[labels]
        wanted -= one_hot[chosen].sum(dim=0)
        yield images[chosen], labels[chosen]
        if not wanted.any():
            break


def _divided(found: Iterable[Batch], batch_size: int, *, by_class: bool) -> list[Batch]:
    images, labels = (torch.cat(each) for each in zip(*found, strict=True))
    if by_class:
        order = labels.argsort(stable=True)
        images, labels = images[order], labels[order]
    total = len(labels)
    multiple = 2 if by_class and total >= 4 else 1
    # The batches have similar sizes, at least 2, because batch norm cannot use a single image.
    count = multiple * max(1, min(-(-total // (multiple * batch_size)), total // (2 * multiple)))
    parts = (torch.tensor_split(each, count) for each in (images, labels))
    return list(zip(*parts, strict=True))
