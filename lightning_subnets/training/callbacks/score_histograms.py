"""The distribution of each weight's scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.training.masked_module import network_of


class ScoreHistograms(Callback):
    """Logs a histogram of each weight's scores, ``scores/<weight>``, to W&B and TensorBoard.

    Args:
        every_n_epochs: the number of epochs between two histograms; each one copies all scores to the host.

    Raises:
        ValueError: if ``every_n_epochs`` is below 1, or if the run has no logger for histograms.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise UserError(f"every_n_epochs = {every_n_epochs} is below 1")
        self.every_n_epochs = every_n_epochs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        shows = any(isinstance(logger, WandbLogger | TensorBoardLogger) for logger in trainer.loggers)
        if stage == "fit" and not shows and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UserError(
                "ScoreHistograms needs W&B or TensorBoard: add --trainer.logger=WandbLogger, or "
                "--trainer.logger=TensorBoardLogger --trainer.logger.save_dir=runs"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs or not trainer.is_global_zero:
            return
        step = trainer.global_step - 1  # as Lightning logs the epoch's metrics
        for name, weight in masking.masked_weights(network_of(pl_module)).items():
            if weight.scores is None:
                continue
            scores = weight.scores.detach().cpu()
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_histogram(f"scores/{name}", scores, step)
                elif isinstance(logger, WandbLogger):
                    import wandb

                    histogram: Any = wandb.Histogram(np_histogram=np.histogram(scores, bins=64))
                    logger.log_metrics({f"scores/{name}": histogram}, step)
