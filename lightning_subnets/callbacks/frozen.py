"""Frozen weights that something changes are found in the first epoch, and not when a run is reported."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_subnets import digest
from lightning_subnets.errors import UserError


class Frozen(Callback):
    """Compares the frozen weights, by their fingerprints, with those that training began with.

    It does so before each validation, at the end of each epoch, before its checkpoint is written, and at the end of
    training. Masks, which are frozen scores, may be pruned; and a method may draw frozen weights again.

    Raises:
        ValueError: if a frozen weight has changed, naming it.
    """

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before = _fingerprints(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._before:
            return
        before, now = (torch.stack(list(found.values())) for found in (self._before, _fingerprints(pl_module)))
        if not torch.equal(before, now):
            changed = list(self._before)[int((before != now).nonzero()[0])]
            raise UserError(
                f"{changed} is frozen, and a callback has changed it by step {trainer.global_step}: a callback may "
                "change parameters with requires_grad only, as WeightAveraging does in averaging them"
            )

    on_validation_epoch_start = on_train_end = on_train_epoch_end


def _fingerprints(module: LightningModule) -> dict[str, Tensor]:
    if module.method.redraws:  # type: ignore[union-attr]
        return {}
    return {
        name: digest.fingerprint(parameter)
        for name, parameter in module.named_parameters()
        if not parameter.requires_grad and name.rpartition(".")[2] != "scores"
    }
