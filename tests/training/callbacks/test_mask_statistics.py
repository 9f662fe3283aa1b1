from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from small_runs import quiet_trainer
from torch import nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import MaskStatistics
from lightning_subnets.training.module import SubnetModule


class _Swap(Callback):
    """Takes 3 of the 320 kept edges out and puts 3 others in, at the end of each epoch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._move(pl_module, first=True)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._move(pl_module, first=False)

    @torch.no_grad()
    def _move(self, module: LightningModule, *, first: bool) -> None:
        assert isinstance(module, SubnetModule)
        scores = next(iter(ls.masked_weights(module.network).values())).scores
        assert scores is not None
        values = torch.zeros(640)
        values[:320] = 1.0
        if not first:
            values[:3], values[320:323] = 0.0, 1.0
        scores.copy_(values.view_as(scores))


def _fit(method: ls.Method, epochs: int = 1, **options: Any) -> Trainer:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module = SubnetModule(network, method, optimizer=torch.optim.SGD, **options)
    callbacks = [_Swap(), MaskStatistics()] if method.trainable == "scores" else [MaskStatistics()]
    trainer = quiet_trainer(callbacks=callbacks, limit_train_batches=1, max_epochs=epochs)
    trainer.fit(module, datamodule=Digits())
    return trainer


@pytest.mark.parametrize(("epochs", "swapped"), [(1, 3), (2, 0)])
def test_density_and_swapped_edges_are_counted_by_layer_and_epoch(epochs: int, swapped: int) -> None:
    metrics = _fit(ls.EdgePopup(0.5), epochs).callback_metrics
    assert metrics["density/1.weight"] == 0.5
    assert metrics["swapped/1.weight"] == torch.tensor(swapped / 320)


def test_an_empty_layer_has_no_swapped_edges() -> None:
    metrics = _fit(
        ls.FixedMask({"1.weight": torch.zeros(10, 64, dtype=torch.bool)}), allow_collapse=True
    ).callback_metrics
    assert metrics["density/1.weight"] == metrics["swapped/1.weight"] == 0.0


def test_a_dense_network_logs_no_densities() -> None:
    assert not [name for name in _fit(ls.Dense()).callback_metrics if name.startswith(("density", "swapped"))]
