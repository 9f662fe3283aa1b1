"""A callback that is used in a second fit does there what a new one does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from small_runs import conv_module, quiet_trainer
from torch import Tensor

from lightning_subnets import EdgePopup, Magnitude, Method
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import GradientNorm, GradualDensity, IterativePruning, MaskStatistics


class EveryEpoch(WeightAveraging):
    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None


def rounds(rewind_to: int | None) -> Callable[[], Callback]:
    return lambda: IterativePruning(rounds=1, epochs_per_round=1, fraction=0.5, rewind_to=rewind_to)


CALLBACKS: dict[str, tuple[Callable[[], Callback], Callable[[], Method]]] = {
    "average of steps": (lambda: EMAWeightAveraging(decay=0.5), lambda: EdgePopup(0.5)),
    "average of epochs": (EveryEpoch, lambda: EdgePopup(0.5)),
    "rounds": (rounds(None), lambda: Magnitude(1.0)),
    "rounds with a rewind": (rounds(0), lambda: Magnitude(1.0)),
    "rounds with a rewind to a step": (rounds(2), lambda: Magnitude(1.0)),
    "gradual density": (GradualDensity, lambda: EdgePopup(0.25)),
    "mask statistics": (MaskStatistics, lambda: EdgePopup(0.5)),
    "norm of the gradient": (GradientNorm, lambda: EdgePopup(0.5)),
}


def fit(callback: Callback, method: Method, seed: int, batches: int) -> dict[str, Tensor]:
    """What two epochs of training leave and log."""
    module = conv_module(method, seed=seed)
    trainer = quiet_trainer(callbacks=[callback], max_epochs=2, limit_train_batches=batches, limit_val_batches=1)
    trainer.fit(module, datamodule=Digits(batch_size=32))
    return {**module.state_dict(), **trainer.callback_metrics}


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_second_fit_with_a_callback_is_that_of_a_new_one(name: str) -> None:
    create, method = CALLBACKS[name]
    used = create()
    fit(used, method(), seed=1, batches=5)
    second, alone = (fit(callback, method(), seed=0, batches=4) for callback in (used, create()))
    assert second.keys() == alone.keys()
    assert [key for key in second if not torch.equal(second[key], alone[key])] == []
