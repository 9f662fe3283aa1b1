"""A quiet Trainer, for tests that train."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightning_subnets.training.checkpoint_files import CheckpointFiles


def quiet_trainer(**options: Any) -> Trainer:
    """Return a Trainer of one epoch on the CPU that prints nothing, and keeps only what its callbacks write."""
    callbacks = [*options.pop("callbacks", ())]
    writes = any(isinstance(callback, Checkpoint) for callback in callbacks)
    defaults: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, "logger": False}
    defaults |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": writes}
    trainer = Trainer(callbacks=callbacks, **(defaults | options))
    trainer.strategy.checkpoint_io = CheckpointFiles()
    return trainer
