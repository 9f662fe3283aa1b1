"""A forward pass before training that restores what it changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
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
