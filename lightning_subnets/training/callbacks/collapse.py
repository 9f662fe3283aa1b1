"""Layer collapse, found before hours are spent on a network that nothing flows through."""

from __future__ import annotations

import math
import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.graph.diagnostics import diagnose
from lightning_subnets.training.callbacks.rank_consistency import listed


class Collapse(Callback):
    """Looks at the masks when training begins, and whenever weights have been pruned since.

    A layer that nothing flows through any more is named in a line of the log. A network without a path from its inputs
    to its outputs, which puts out the same for every image and has no gradient, is not trained, unless
    ``allow_collapse`` says so. Where units cannot be followed, only layers without a weight are found.

    Args:
        allow_collapse: train a collapsed network too.

    Raises:
        ValueError: when there is nothing to train.
    """

    def __init__(self, allow_collapse: bool) -> None:
        self.allow_collapse = allow_collapse
        self._kept: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = pl_module.network
        assert isinstance(network, nn.Module)
        # Masks that are trained keep their density, and those that are drawn have none of their own.
        if self._kept is not None and not _may_be_pruned(network):
            return
        before, kept = self._kept, masking.density(network)
        self._kept = kept
        if kept in (1.0, before) or not masking.masked_layers(network)[0][1].method.cacheable:
            return
        data: Any = getattr(trainer, "datamodule", None)
        try:
            diagnosis = diagnose(network, data.image_shape)
        except (UserError, AttributeError):
            empty = [name for name, share in masking.density(network, per_layer=True).items() if not share]
            found, paths = in_words(empty, []), 0.0
        else:
            found, paths = in_words(diagnosis.empty, diagnosis.cut_off), diagnosis.log10_paths
        if paths == -math.inf and not self.allow_collapse:
            raise UserError(
                f"no path is left from the inputs of {type(network).__name__} to its outputs at density {kept:.3g}, so "
                f"that nothing can be trained: {found}. Take a larger density, or another method or allocation; "
                "--model.allow_collapse=true trains it all the same"
            )
        if found and trainer.is_global_zero:
            print(f"layer collapse at density {kept:.3g}: {found}", file=sys.stderr)


def in_words(empty: list[str], cut_off: list[str]) -> str:
    """Which layers nothing flows through, and why; nothing if there is none."""
    said = [f"no weight is left of {listed(empty)}"] if empty else []
    return "; ".join([*said, *([f"nothing flows through {listed(cut_off)}"] if cut_off else [])])


def _may_be_pruned(network: nn.Module) -> bool:
    layers = masking.masked_layers(network)
    return any(layer.scores is not None and not layer.scores.requires_grad for _, layer in layers)
