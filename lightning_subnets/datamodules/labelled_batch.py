"""The batches that a network can learn from: a pair of images and labels."""

from __future__ import annotations

from torch import Tensor


def hard_labels(labels: Tensor) -> Tensor:
    """Return labels as classes (batch,): of soft labels (batch, classes), each image's most probable class."""
    return labels.argmax(dim=1) if labels.ndim == 2 else labels
