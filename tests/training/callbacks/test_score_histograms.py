from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger
from small_runs import quiet_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.errors import UserError
from lightning_subnets.training.callbacks import ScoreHistograms
from lightning_subnets.training.loggers import MetricsFile, TensorBoard
from lightning_subnets.training.module import SubnetModule


def fit(loggers: list[Logger], *, every_n_epochs: int = 2, method: ls.Method | None = None) -> SubnetModule:
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), method or ls.EdgePopup(0.5))
    limits: dict[str, Any] = {"max_epochs": 4, "limit_train_batches": 3, "limit_val_batches": 0}
    callback = ScoreHistograms(every_n_epochs=every_n_epochs)
    quiet_trainer(callbacks=[callback], logger=loggers, **limits).fit(module, datamodule=Digits())
    return module


def test_tensorboard_gets_the_metrics_and_the_scores_of_each_layer(tmp_path: Path) -> None:
    module = fit([TensorBoard(str(tmp_path), name="", version="")])
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    assert [event.step for event in events.Scalars("train/loss_step")] == list(range(12))
    shown = events.Histograms("scores/1.weight")
    scores: Any = module.network[1].scores  # type: ignore[index]
    assert [event.step for event in shown] == [5, 11]
    assert shown[-1].histogram_value.num == 640
    assert shown[-1].histogram_value.max == pytest.approx(float(scores.detach().max()))


def test_a_method_without_scores_logs_no_histogram(tmp_path: Path) -> None:
    fit([TensorBoard(str(tmp_path), name="", version="")], method=ls.Dense())
    events = EventAccumulator(str(tmp_path)).Reload()
    assert not events.Tags()["histograms"]


def test_an_error_names_the_loggers_that_show_histograms(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--trainer\.logger=WandbLogger, or --trainer\.logger=TensorBoardLogger"):
        fit([MetricsFile(str(tmp_path))])


def test_an_interval_below_an_epoch_is_refused() -> None:
    with pytest.raises(UserError, match="every_n_epochs = 0 is below 1"):
        ScoreHistograms(every_n_epochs=0)
