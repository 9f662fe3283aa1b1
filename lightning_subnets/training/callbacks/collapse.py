"""Layer collapse, found before hours are spent on a network without a path from inputs to outputs."""

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
from lightning_subnets.training.masked_module import network_of


class Collapse(Callback):
    """Checks the masks when training begins, and again whenever weights have been pruned.

    It prints the names of layers that no path goes through. A network without any path from its inputs to its outputs
    has the same output for every image and no gradient, so it is an error. If the units of a network cannot be
    followed, only layers without a weight are found.

    Args:
        allow_collapse: train a collapsed network too.

    Raises:
        ValueError: if no path is left.
    """

    def __init__(self, allow_collapse: bool) -> None:
        self.allow_collapse = allow_collapse
        self._density: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = network_of(pl_module)
        # Trained masks keep their density, and sampled masks have none.
        if self._density is not None and not _may_be_pruned(network):
            return
        before, density = self._density, masking.density(network)
        self._density = density
        if density in (1.0, before) or not masking.masked_layers(network)[0][1].method.cacheable:
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
                f"no path is left from the inputs of {type(network).__name__} to its outputs at density {density:.3g}, "
                f"so it cannot be trained: {found}. Take a larger density, or another method or allocation; "
                "--model.allow_collapse=true trains it anyway"
            )
        if found and trainer.is_global_zero:
            print(f"layer collapse at density {density:.3g}: {found}", file=sys.stderr)


def in_words(empty: list[str], cut_off: list[str]) -> str:
    """Name the layers without a weight and the other layers without a path; return "" if there are none."""
    parts = [f"no weight is left of {listed(empty)}" if empty else ""]
    parts.append(f"nothing flows through {listed(cut_off)}" if cut_off else "")
    return "; ".join(filter(None, parts))


def _may_be_pruned(network: nn.Module) -> bool:
    layers = masking.masked_layers(network)
    return any(layer.scores is not None and not layer.scores.requires_grad for _, layer in layers)
