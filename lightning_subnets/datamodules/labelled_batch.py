"""The batches that a network can learn from: a pair of images and labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.errors import UserError


def labelled_batch(batch: Any, source: str) -> Batch:
    """Return a batch as (images, labels).

    Args:
        batch: from any loader.
        source: of the batch, for error messages.

    Raises:
        ValueError: if it is not a pair of floating-point images and one label for each image.
    """
    wanted = "give (images, labels), both tensors, from the data set or from collate_fn"
    if not isinstance(batch, (list, tuple)):
        keys = f" with the keys {list(batch)}" if isinstance(batch, dict) else ""
        raise UserError(f"a batch of {source} is a {type(batch).__name__}{keys:.200}: {wanted}")
    if len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        names = ", ".join(type(part).__name__ for part in batch)
        raise UserError(f"a batch of {source} has {len(batch)} parts ({names:.200}): {wanted}")
    images, labels = batch
    if not images.is_floating_point():
        raise UserError(
            f"the images of {source} are {images.dtype}: convert and normalise them, for instance with "
            "ToDtype(torch.float32, scale=True) and Normalize of torchvision.transforms.v2"
        )
    shape = tuple(labels.shape)
    kind = (labels.ndim == 1 and labels.dtype == torch.int64) or (labels.ndim == 2 and labels.is_floating_point())
    if not kind or len(labels) != len(images):
        raise UserError(
            f"the labels of {source} are {labels.dtype} of shape {shape}, for images of shape {tuple(images.shape)}: "
            "give torch.int64 of shape (images,), or probabilities of shape (images, classes)"
        )
    return images, labels


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return the images of a batch to predict, and their labels if the batch has some.

    Args:
        batch: images (batch, channels, height, width) alone, or a list or tuple that begins with them and may continue
            with a tensor of labels.

    Raises:
        ValueError: if it is neither.
    """
    parts = batch if isinstance(batch, (list, tuple)) else [batch]
    if not parts or not isinstance(parts[0], Tensor):
        raise UserError(f"a batch to predict is a {type(batch).__name__}: give images, or (images, labels)")
    labels = parts[1] if len(parts) > 1 and isinstance(parts[1], Tensor) else None
    return parts[0], labels


def hard_labels(labels: Tensor) -> Tensor:
    """Return labels as classes (batch,): of soft labels (batch, classes), each image's most probable class."""
    return labels.argmax(dim=1) if labels.ndim == 2 else labels
