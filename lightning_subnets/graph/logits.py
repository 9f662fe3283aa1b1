"""The logits in what a network returns."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_subnets.errors import UserError


def logits_of(network: nn.Module, output: Any) -> Tensor:
    """Return the logits (batch, classes) in the output of a network: the output itself, or its attribute ``logits``.

    Networks of Hugging Face return such an object, and in training so do GoogLeNet and Inception, with the logits of
    their auxiliary classifiers beside.

    Raises:
        ValueError: if there are none.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        keys = f" with the keys {list(output)}" if isinstance(output, dict) else ""
        raise UserError(
            f"{type(network).__name__} returns a {type(output).__name__}{keys:.200}: return a tensor of logits, or an "
            "object whose attribute logits is that tensor"
        )
    return logits
