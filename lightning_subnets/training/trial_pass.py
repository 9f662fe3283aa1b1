"""Passes before training that restore what they change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import masked_weights
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
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    devices = {parameter.device.index for parameter in network.parameters() if parameter.is_cuda}
    with torch.no_grad(), torch.random.fork_rng(devices):
        try:
            network.train(training)
            with torch.compiler.set_stance("force_eager"):  # compiling would take longer than the pass
                yield
        finally:
            for module, was_training in modes:
                module.training = was_training
            for buffer, before in buffers:
                buffer.copy_(before)
