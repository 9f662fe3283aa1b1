"""A small network and a quiet Trainer, for tests that train."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn, optim

from lightning_subnets import EdgePopup, Method
from lightning_subnets.training.checkpoint import CheckpointFiles
from lightning_subnets.training.module import SubnetModule


def conv_module(method: Method | None = None, **options: Any) -> SubnetModule:
    """Return a module with biases, batch norm and dropout for 8x8 images, whose optimizer has momentum and decay."""
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(144, 10)
    )
    defaults: dict[str, Any] = {
        "weights": "kaiming_normal",
        "optimizer": lambda trained: optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=1e-3),
    }
    return SubnetModule(network, method or EdgePopup(0.5), **(defaults | options))


def quiet_trainer(**options: Any) -> Trainer:
    """Return a Trainer of one epoch on the CPU that prints nothing, and keeps only what its callbacks write."""
    callbacks = [*options.pop("callbacks", ())]
    writes = any(isinstance(callback, Checkpoint) for callback in callbacks)
    defaults: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, "logger": False}
    defaults |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": writes}
    trainer = Trainer(callbacks=callbacks, **(defaults | options))
    trainer.strategy.checkpoint_io = CheckpointFiles()
    return trainer
