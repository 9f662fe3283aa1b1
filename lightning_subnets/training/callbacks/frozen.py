"""A check, in each epoch, that nothing has changed the frozen weights of the network."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking import digest


class Frozen(Callback):
    """Compares the fingerprints of the network's frozen weights with those at the start of training.

    It does so before each validation, at the end of each epoch before the checkpoint is written, and at the end of
    training. Scores are left out, because frozen scores are masks, which may be pruned. If the method draws frozen
    weights again, nothing is compared.

    Raises:
        ValueError: if a frozen weight has changed. The error names the weight.
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
                f"{changed} is frozen, and a callback or {type(pl_module).__name__} has changed it by step "
                f"{trainer.global_step}: let them change only parameters that require a gradient, and buffers"
            )

    on_validation_epoch_start = on_train_end = on_train_epoch_end


def _fingerprints(module: LightningModule) -> dict[str, Tensor]:
    if module.method.rerandomizes:  # type: ignore[union-attr]
        return {}
    # A module beside the network, such as the mean teacher of a subclass, may change as it likes.
    frozen = digest.weights(module.network, frozen=True)  # type: ignore[arg-type]
    return {f"network.{name}": digest.fingerprint(weight) for name, weight in frozen.items()}
