"""Small networks, runs and tasks, and a quiet Trainer, for tests."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn, optim

from lightning_subnets import EdgePopup, Method, SupSup, masked_weights
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


def two_tasks(network: nn.Module) -> SupSup:
    """Return two tasks of a network, each with random scores."""
    tasks = SupSup(network)
    for name in "ab":
        with torch.no_grad():
            for each in masked_weights(network).values():
                assert each.scores is not None
                each.scores.uniform_(-1, 1)
        tasks.add(name)
    return tasks
