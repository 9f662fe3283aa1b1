"""All ranks prune the same weights and rewind to the same values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rank_processes import on_ranks, trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import IterativePruning
from lightning_subnets.training.module import SubnetModule

pytestmark = pytest.mark.thorough

State = dict[str, Tensor]


class Watch(Callback):
    """Keeps the network's state before each step, and after the last of the first round."""

    def __init__(self) -> None:
        self.before: dict[int, State] = {}
        self.trained: State = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.before[trainer.global_step] = self._state(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 5:
            self.trained = self._state(pl_module)

    def _state(self, module: LightningModule) -> State:
        network = module.network
        assert isinstance(network, nn.Module)
        return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def on_a_rank() -> tuple[dict[int, State], State]:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    module = SubnetModule(network, ls.Magnitude(1.0), optimizer=lambda trained: torch.optim.SGD(trained, lr=0.1))
    watch, pruning = Watch(), IterativePruning(rounds=1, epochs_per_round=1, rewind_to=2)
    trainer(max_epochs=2, callbacks=[watch, pruning]).fit(module, datamodule=Digits(batch_size=144))
    return watch.before, watch.trained


def test_two_ranks_prune_the_same_weights_and_rewind_to_the_same_network() -> None:
    (before, trained), (others_before, others_trained) = on_ranks(on_a_rank)
    assert list(before) == list(range(10))
    assert not torch.equal(trained["1.running_mean"], others_trained["1.running_mean"])  # each its own in a round
    kept = sum(int(tensor.sum()) for name, tensor in before[5].items() if name.endswith("scores"))
    assert kept == 1476 - int(0.2 * 1476)
    for name, tensor in before[5].items():
        assert torch.equal(tensor, others_before[5][name]), name
        assert name.endswith("scores") or torch.equal(tensor, before[2][name]), name
