"""On another device than the CPU, a run computes there, its steps do not wait for it, and it finds the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from another_device import DEVICE, another_device, differences, of_trainer, state_of
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from small_runs import conv_module, quiet_trainer, two_tasks
from torch import Tensor

from lightning_subnets import EdgePopup, Magnitude, Method, mask_
from lightning_subnets.datamodules import Digits
from lightning_subnets.networks import Conv4
from lightning_subnets.training.callbacks import GradientNorm, GradualDensity, IterativePruning, MaskStatistics


def test_this_device_refuses_and_notes_what_a_gpu_does() -> None:
    with another_device() as waits:
        there = torch.arange(3, device=DEVICE) * 2
        there.add_(torch.tensor(1))  # one number may be on the CPU
        assert (there.device, waits) == (DEVICE, [])
        with pytest.raises(RuntimeError, match="add"):
            there + torch.ones(3)
        assert there.tolist() == [1, 3, 5]
        assert int(there[0]) == 1
        assert waits == ["aten._to_copy.default", "aten._local_scalar_dense.default"]
        torch.ones(3).to(DEVICE, non_blocking=True)
        assert len(waits) == 2
        there.copy_(torch.ones(3))
        torch.tensor(1.0, device=DEVICE)
        assert waits[2:] == ["aten.copy_.default", "aten._to_copy.default"]


class StepWaits(Callback):
    """Notes what has made the host wait from the start of a step to the start of the next."""

    def __init__(self, waits: list[str]) -> None:
        self.waits = waits
        self.waits_of: dict[int, list[str]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx:
            self.waits_of[batch_idx] = [*self.waits]
        self.waits.clear()


# Callbacks that have their own tensors, and a method that each takes.
CASES: dict[str, Callable[[], tuple[Method, list[Callback]]]] = {
    "statistics": lambda: (EdgePopup(0.3), [MaskStatistics(), GradientNorm()]),
    "average": lambda: (EdgePopup(0.3), [EMAWeightAveraging(decay=0.9)]),
    "gradual": lambda: (EdgePopup(0.3), [GradualDensity(until=0.5)]),
    "iterative": lambda: (Magnitude(1.0), [IterativePruning(rounds=1, epochs_per_round=1)]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_the_same_and_its_steps_do_not_wait(case: str) -> None:
    def fit(*others: Callback, **where: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        method, callbacks = CASES[case]()
        module = conv_module(method)
        trainer = quiet_trainer(callbacks=[*callbacks, *others], log_every_n_steps=10, max_epochs=2, **where)
        trainer.fit(module, datamodule=Digits())
        return state_of(module.network)

    expected = fit()
    with another_device() as waits:
        steps = StepWaits(waits)
        found = fit(steps, **of_trainer())
    assert differences(found, expected) == []
    assert len(steps.waits_of) > 20
    assert {step: each for step, each in steps.waits_of.items() if each and step % 10} == {}  # every tenth is logged


def test_a_task_is_inferred_where_the_network_is() -> None:
    network = mask_(Conv4(width_multiplier=0.25), EdgePopup(0.5), weights="kaiming_normal")
    tasks, images = two_tasks(network), torch.randn(8, 3, 32, 32)
    expected = tasks.slopes(images)
    with another_device():
        network.to(DEVICE)
        assert tasks.slopes(images.to(DEVICE)) == expected
