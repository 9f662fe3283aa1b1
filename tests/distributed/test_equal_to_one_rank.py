"""Several ranks compute the same as one rank with all of their batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rank_processes import on_ranks, trainer
from torch import nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.training.module import SubnetModule

STEPS = 12
SAMPLES = 359  # divisible by neither 2 nor 3


class UnevenDigits(Digits):
    """Digits with a test set that ranks cannot share out evenly."""

    def load(self, *, train: bool) -> Batch:
        images, labels = super().load(train=train)
        return (images, labels) if train else (images[:SAMPLES], labels[:SAMPLES])


class Counts(Callback):
    """The samples that this rank has validated."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metric: Any = pl_module.get_submodule("metrics")["val/accuracy"]  # type: ignore[index]
        self.samples = float(metric.weight)


def train(batch_size: int, optimizer: str) -> dict[str, Any]:
    """A few steps and a validation in float64, on a network without batch norm."""
    network = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
    builders = {
        "SGD": lambda scores: torch.optim.SGD(scores, lr=0.1, momentum=0.9, weight_decay=1e-4),
        "AdamW": lambda scores: torch.optim.AdamW(scores, lr=0.01),
    }
    method = ls.EdgePopup(0.5)
    module = SubnetModule(network, method, optimizer=builders[optimizer], lr_batch_size=64, label_smoothing=0.1)
    before = {key: value.double() for key, value in network.state_dict().items()}
    counts, rates = Counts(), Rates()
    fit = trainer(
        max_steps=STEPS, max_epochs=-1, val_check_interval=STEPS, precision="64-true", callbacks=[counts, rates]
    )
    fit.fit(module, datamodule=UnevenDigits(batch_size))
    moved = [not torch.equal(value, before[key]) for key, value in network.state_dict().items() if "scores" in key]
    return {
        "moved": all(moved),
        "state": network.state_dict(),
        "masks": ls.masks(network),
        "rates": rates.seen,
        "samples": counts.samples,
        "metrics": {name: value.double().item() for name, value in fit.callback_metrics.items()},
    }


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.thorough
@pytest.mark.parametrize(("ranks", "optimizer"), [(2, "SGD"), (3, "AdamW")])
def test_ranks_with_a_share_of_the_batch_each_equal_one_rank_with_all_of_it(ranks: int, optimizer: str) -> None:
    (alone,) = on_ranks(train, 96, optimizer, ranks=1)
    together = on_ranks(train, 96 // ranks, optimizer, ranks=ranks)
    assert alone["moved"]
    assert len(alone["rates"]) == STEPS
    assert alone["rates"][0] > {"SGD": 0.1, "AdamW": 0.01}[optimizer]  # for a larger batch than that it is given for
    for rank in together:
        assert rank["rates"] == alone["rates"]
        for key, value in alone["state"].items():
            assert value.dtype == torch.float64
            torch.testing.assert_close(rank["state"][key], value, rtol=1e-11, atol=1e-13)
        assert all(torch.equal(rank["masks"][name], mask) for name, mask in alone["masks"].items())
        # Ranks do not differ among themselves by a bit.
        assert all(torch.equal(value, together[0]["state"][key]) for key, value in rank["state"].items())

    assert sum(rank["samples"] for rank in together) == alone["samples"] == SAMPLES
    assert len({rank["samples"] for rank in together}) == 2
    for rank in together:
        for name in ("val/accuracy", "val/top5"):
            assert rank["metrics"][name] == alone["metrics"][name]
            assert (rank["metrics"][name] * SAMPLES) == pytest.approx(round(rank["metrics"][name] * SAMPLES), abs=1e-4)
        for name in ("val/loss", "train/loss", "train/accuracy"):
            assert rank["metrics"][name] == pytest.approx(alone["metrics"][name], rel=3e-7), name
