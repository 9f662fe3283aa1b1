"""If the loss of one rank is not finite, all ranks end after the same step."""

from __future__ import annotations

from typing import Any

import torch
from rank_processes import on_ranks, trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.module import SubnetModule


class Diverging(SubnetModule):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if (self.global_rank, self.global_step) == (1, 2) else loss


def train() -> str:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module = Diverging(network, ls.EdgePopup(0.5), optimizer=lambda scores: torch.optim.SGD(scores, lr=0.1))
    options: dict[str, Any] = {"max_steps": 6, "limit_val_batches": 0}
    try:
        trainer(**options).fit(module, datamodule=Digits())
    except ls.UserError as error:
        return str(error)
    return "trained"


def test_a_loss_of_one_rank_that_is_not_finite_ends_all_ranks() -> None:
    first, second = on_ranks(train)
    assert first == second
    assert first.startswith("training diverged at step 2: the loss is not finite")
