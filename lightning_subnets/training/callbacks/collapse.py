"""Layer collapse, found before hours are spent on a network without a path from inputs to outputs."""

from __future__ import annotations

import math
import sys

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_subnets import masking
from lightning_subnets.errors import UserError, listed
from lightning_subnets.graph.diagnostics import Diagnosis, diagnose
from lightning_subnets.masking.prune_at_init import PruneAtInit
from lightning_subnets.training.masked_module import network_of


class Collapse(Callback):
    """Checks the masks when training begins, and again whenever weights have been pruned.

    It prints the names of weights that no path goes through. A network without any path from its inputs to its outputs
    has the same output for every image and no gradient, so it is an error. If the units of a network cannot be
    followed, only weights without a kept number are found, and a line says so.

    Args:
        allow_collapse: train a collapsed network too.

    Raises:
        ValueError: if no path is left, or if a subclass of ``SubnetModule`` has kept the method from pruning.
    """

    def __init__(self, allow_collapse: bool) -> None:
        self.allow_collapse = allow_collapse
        self._density: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not pl_module._pruned and isinstance(pl_module.method, PruneAtInit):
            raise UserError(
                f"{type(pl_module).__name__} overrides on_fit_start, in which SubnetModule lets the method prune: call "
                "super().on_fit_start() there"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = network_of(pl_module)
        # Trained masks keep their density, and sampled masks have none.
        if self._density is not None and not _may_be_pruned(network):
            return
        before, density = self._density, masking.density(network)
        self._density = density
        if density in (1.0, before) or not next(iter(masking.masked_weights(network).values())).method.cacheable:
            return
        shape = getattr(trainer.datamodule, "image_shape", None)  # type: ignore[attr-defined]
        diagnosis = shape and diagnosis_of(network, shape)
        if isinstance(diagnosis, Diagnosis):
            found, paths = in_words(diagnosis.empty, diagnosis.cut_off), diagnosis.log10_paths
        else:
            empty = [name for name, share in masking.density(network, per_weight=True).items() if not share]
            found, paths = in_words(empty, []), 0.0
            if diagnosis and trainer.is_global_zero and before is None:
                print(f"whether a path is left cannot be checked: {diagnosis}", file=sys.stderr)
        if paths == -math.inf and not self.allow_collapse:
            raise UserError(
                f"no path is left from the inputs of {type(network).__name__} to its outputs at density {density:.3g}, "
                f"so it cannot be trained: {found}. Take a larger density, or another method or allocation; "
                "--model.allow_collapse=true trains it anyway"
            )
        if found and trainer.is_global_zero:
            print(f"layer collapse at density {density:.3g}: {found}", file=sys.stderr)


def diagnosis_of(network: nn.Module, shape: tuple[int, ...]) -> Diagnosis | str:
    """Return the diagnosis of a masked network, or the reason why it has none: a run continues without it."""
    try:
        return diagnose(network, shape)
    except Exception as error:  # the code of the network may raise any type
        return str(error) if isinstance(error, UserError) else f"{error!r:.200}"


def in_words(empty: list[str], cut_off: list[str]) -> str:
    """Name the weights without a kept number and the others without a path; return "" if there are none."""
    parts = [f"no weight is left of {listed(empty)}" if empty else ""]
    parts.append(f"nothing flows through {listed(cut_off)}" if cut_off else "")
    return "; ".join(filter(None, parts))


def _may_be_pruned(network: nn.Module) -> bool:
    weights = masking.masked_weights(network).values()
    return any(weight.scores is not None and not weight.scores.requires_grad for weight in weights)
