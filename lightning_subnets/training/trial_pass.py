"""Passes before training that restore what they change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_subnets.datamodules.labelled_batch import labelled_batch
from lightning_subnets.errors import UserError
from lightning_subnets.masking import masked_weights
from lightning_subnets.masking.prune_at_init import restored
from lightning_subnets.training.lightning_internals import batch_on_device
from lightning_subnets.training.masked_module import MaskedModule


def check_single_image(module: MaskedModule, image: Tensor, why: str) -> None:
    """Check that the network can be trained on a batch of one image.

    It cannot if a batch norm gets only one value a channel, which has no variance.

    Args:
        module: of the network.
        image: (1, channels, height, width), on the module's device.
        why: the reason for a batch of one image, at the start of the error message.

    Raises:
        ValueError: if the network cannot be trained on the image.
    """
    try:
        with trial_pass(module.network, training=True):
            module(image)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"{why} gives a batch of one image, on which {type(module.network).__name__} cannot be trained ({error}): "
            "take another batch size"
        ) from error


def check_batch(module: MaskedModule, batch: Any, source: str) -> int:
    """Check that the network can learn from a batch, and return the number of its outputs.

    Args:
        module: of the network.
        batch: from any loader, on the module's device.
        source: of the batch, for error messages.

    Raises:
        ValueError: if it is not (images, labels), does not fit the network, or has soft labels that are no
            probabilities.
    """
    images, labels = labelled_batch(batch, source)
    name, outputs = type(module.network).__name__, trial_logits(module, images[:1], source).shape[1]
    if labels.ndim == 2:
        wrong = [] if labels.shape[1] == outputs else [f"of {labels.shape[1]} classes"]
    else:
        wrong = [str(int(label)) for label in labels.aminmax() if not 0 <= label < outputs]
    if wrong:
        raise UserError(
            f"{source} has labels {wrong[-1]}, and {name} has {outputs} outputs, for labels from 0 to {outputs - 1}: "
            "set the number of classes of the network (--model.network.num_classes), or number the labels from 0"
        )
    if labels.ndim == 2 and type(module.loss) is nn.CrossEntropyLoss:  # a subclass may have a loss of its own
        _check_probabilities(labels.float(), source)
    return outputs


def _check_probabilities(labels: Tensor, source: str) -> None:
    sums, least = labels.sum(dim=1), labels.amin(dim=1)
    # Numbers that were rounded to bfloat16 do not sum to 1. NaN is not below the bound.
    wrong = ~((sums - 1).abs() < 0.02) | (least < 0)
    if wrong.any():
        raise UserError(
            f"the labels of {source} are no probabilities: a row has the sum {sums[wrong][0]:.3g} and the least number "
            f"{least[wrong][0]:.3g}, instead of 1 and at least 0. SubnetModule trains a classifier with one class for "
            "each image: for regression or several labels for an image, mask the network with ls.mask_ in a "
            "LightningModule of your own"
        )


def trial_logits(module: MaskedModule, image: Tensor, source: str) -> Tensor:
    """Return the logits of an image.

    Args:
        module: of the network.
        image: (1, channels, height, width), on the module's device.
        source: of the image, for error messages.

    Raises:
        ValueError: if the network cannot take the image, or gives logits of another shape than (1, classes).
    """
    name = type(module.network).__name__
    try:
        with trial_pass(module.network, training=False):
            logits: Tensor = module(image)
    except (RuntimeError, AttributeError, IndexError) as error:
        raise UserError(f"{name} cannot take the images of {source}, {tuple(image.shape[1:])}: {error}") from error
    if logits.ndim != 2:
        raise UserError(f"{name} gives logits of shape {tuple(logits.shape)} for one image: return (batch, classes)")
    return logits


def batch_checker(module: MaskedModule, trainer: Trainer) -> Callable[[Any], tuple[Any, int]]:
    """Return a function that gives a batch as the training step gets it, and the number of the network's outputs."""
    source = type(trainer.datamodule).__name__  # type: ignore[attr-defined]

    def check(batch: Any) -> tuple[Any, int]:
        batch = batch_on_device(trainer, module, batch)
        return batch, check_batch(module, batch, source)

    return check


def weights_without_gradient(module: MaskedModule, image: Tensor) -> list[str]:
    """Return the names of the masked weights that a step of training never reads, such as those of an unused head.

    Args:
        module: of the network.
        image: (1, channels, height, width), on the module's device.
    """
    trained = {
        name: each.scores if each.scores is not None and each.scores.requires_grad else each.weight
        for name, each in masked_weights(module.network).items()
    }
    trained = {name: parameter for name, parameter in trained.items() if parameter.requires_grad}
    try:
        with trial_pass(module.network, training=True), torch.enable_grad():
            output = module(torch.cat([image, image])).sum()
            if not output.requires_grad:
                return list(trained)
            gradients = torch.autograd.grad(output, list(trained.values()), allow_unused=True)
    except Exception:  # training raises the same error, with the batch that causes it
        return []
    return [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]


@contextmanager
def trial_pass(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Restore modes and buffers of the network and the random number generators after a trial forward pass."""
    devices = {parameter.device.index for parameter in network.parameters() if parameter.is_cuda}
    with restored(network), torch.no_grad(), torch.random.fork_rng(devices):
        network.train(training)
        with torch.compiler.set_stance("force_eager"):  # compiling would take longer than the pass
            yield
