"""Stops a run whose loss or parameters are no longer finite."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor, distributed

from lightning_subnets.errors import UserError

_NEVER = torch.iinfo(torch.int64).max


class Divergence(Callback):
    """Raises an error that names the first step whose loss was not finite.

    Reading a value makes the host wait for a GPU. So on a GPU the loss is read at the logging interval and before a
    checkpoint is written, which would replace the last good one. All ranks read it together and stop together.
    """

    _first: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first = torch.tensor(_NEVER, device=pl_module.device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._first is not None
        if outputs:  # empty if training_step has returned None, to skip the batch
            diverged = torch.where(outputs["loss"].isfinite(), _NEVER, self._step)
            torch.minimum(self._first, diverged, out=self._first)
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        at_interval = trainer.is_last_batch or (interval and not (batch_idx + 1) % interval)
        if at_interval or (trainer.world_size == 1 and pl_module.device.type == "cpu"):
            _check_losses(trainer, self._first)
        if at_interval:
            _check_parameters(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Not before training, after it, or where an exception saves a checkpoint.
        if self._first is not None and trainer.state.status == TrainerStatus.RUNNING and trainer.training:
            _check_losses(trainer, self._first)
            _check_parameters(trainer, pl_module)


def _check_losses(trainer: Trainer, first: Tensor) -> None:
    if trainer.world_size > 1:
        distributed.all_reduce(first, op=distributed.ReduceOp.MIN)
    if (step := int(first)) != _NEVER:
        raise diverged_at(trainer, step, "the loss is not finite")


def _check_parameters(trainer: Trainer, module: LightningModule) -> None:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # All ranks find the same, because they have the same parameters.
    if not torch.stack([parameter.isfinite().all() for parameter in trained]).all():
        raise diverged_at(trainer, trainer.global_step, "a trained parameter is not finite")


def diverged_at(trainer: Trainer, step: int, what: str) -> UserError:
    """Return the error of a run that diverged at an optimizer step."""
    # LastCheckpoint is the last of these callbacks. The best checkpoint may be much older.
    saved = [path for callback in trainer.checkpoint_callbacks if (path := getattr(callback, "best_model_path", ""))]
    kept = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint had been written"
    return UserError(f"training diverged at step {step}: {what}. Try a lower learning rate; {kept}.")
