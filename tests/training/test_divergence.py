from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from test_module import fit, sgd, small_module, small_network
from torch import Tensor

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks.last_checkpoint import LastCheckpoint
from lightning_subnets.training.module import SubnetModule


class Poison(Callback):
    """Makes a number NaN at the start or at the end of a step."""

    def __init__(self, hook: str, step: int, tensor: Callable[[LightningModule, Any], Tensor]) -> None:
        def poison(trainer: Trainer, module: LightningModule, *arguments: Any) -> None:
            if trainer.global_step == step:
                tensor(module, arguments).detach().view(-1)[0] = math.nan

        setattr(self, hook, poison)


@pytest.mark.parametrize(
    ("poison", "step"),
    [
        (Poison("on_train_batch_start", 15, lambda _, arguments: arguments[0][0]), 15),
        # The last step of an epoch, whose loss is finite.
        (Poison("on_train_batch_end", 20, lambda module, _: dict(module.named_parameters())["network.0.weight"]), 20),
    ],
    ids=["an image", "a parameter"],
)
def test_a_diverged_run_names_its_step_and_keeps_the_last_good_checkpoint(
    poison: Poison, step: int, tmp_path: Path
) -> None:
    keep = ModelCheckpoint(tmp_path, filename="last")
    options: dict[str, Any] = {"max_epochs": 3, "callbacks": [poison, keep], "log_every_n_steps": 100}
    with pytest.raises(ls.UserError, match=rf"diverged at step {step}.*last\.ckpt"):
        fit(small_module(method=ls.Dense()), Digits(batch_size=144), tmp_path, **options)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 10
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_a_batch_that_the_training_step_skips_does_not_end_the_run(tmp_path: Path) -> None:
    class Skipping(SubnetModule):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) if batch[0].isfinite().all() else None

    poison = Poison("on_train_batch_start", 2, lambda _, arguments: arguments[0][0])
    module = Skipping(small_network(), ls.EdgePopup(0.5), optimizer=sgd())
    with pytest.warns(UserWarning, match="`training_step` returned `None`"):
        trainer = fit(module, Digits(batch_size=144), tmp_path, callbacks=[poison])
    assert trainer.global_step == 10
    assert trainer.callback_metrics["train/loss"].isfinite()


def test_no_checkpoint_within_an_epoch_replaces_the_last_good_one_after_a_divergence(tmp_path: Path) -> None:
    # As on a GPU, where losses are read at the logging interval only: nothing is read between this step and the save.
    poison = Poison("on_train_batch_end", 5, lambda module, _: module.get_parameter("network.0.weight"))
    older = ModelCheckpoint(tmp_path, filename="older", every_n_train_steps=2)
    callbacks = [poison, older, LastCheckpoint(tmp_path, minutes=0)]
    options: dict[str, Any] = {"callbacks": callbacks, "log_every_n_steps": 100}
    with pytest.raises(ls.UserError, match=r"diverged at step 5.*last\.ckpt"):
        fit(small_module(method=ls.Dense()), Digits(batch_size=144), tmp_path, **options)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 4
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_a_checkpoint_can_be_saved_before_the_first_step(tmp_path: Path) -> None:
    class Saving(Callback):
        def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "first.ckpt")

    fit(small_module(), Digits(), tmp_path, callbacks=[Saving()], limit_train_batches=1)
    assert torch.load(tmp_path / "first.ckpt", weights_only=True)["global_step"] == 0


@pytest.mark.filterwarnings("ignore:.*ckpt_path")  # of every fit with a callback that is a Checkpoint
def test_a_checkpoint_that_an_exception_saves_is_not_checked(tmp_path: Path) -> None:
    class Failing(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
            module.get_parameter("network.0.weight").detach().fill_(math.nan)
            raise RuntimeError("of the user")

    with pytest.raises(RuntimeError, match="of the user"):
        fit(small_module(method=ls.Dense()), Digits(), tmp_path, callbacks=[Failing(), OnExceptionCheckpoint(tmp_path)])
    assert (tmp_path / "on_exception.ckpt").exists()


def test_a_nan_score_is_an_error_that_names_the_step(tmp_path: Path) -> None:
    poison = Poison("on_train_batch_start", 3, lambda module, _: module.get_parameter("network.0.scores"))
    with pytest.raises(ls.UserError, match="diverged at step 3: a score is NaN"):
        fit(small_module(), Digits(), tmp_path, callbacks=[poison])


class Own(SubnetModule):
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val/mean", self(batch[0]).mean())


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric MeanMetric was called before")
def test_a_validation_step_of_ones_own_has_to_call_that_of_the_module(tmp_path: Path) -> None:
    with pytest.raises(ls.UserError, match=r"Own\.validation_step does not call super\(\)\.validation_step"):
        fit(Own(small_network(), ls.EdgePopup(0.5), optimizer=sgd()), Digits(), tmp_path, max_epochs=1)


def test_parameters_are_read_at_the_logging_interval(tmp_path: Path) -> None:
    # The next loss on the CPU would say it too, but on a GPU that is read no earlier.
    poison = Poison("on_train_batch_end", 4, lambda module, _: module.get_parameter("network.0.weight"))
    options: dict[str, Any] = {"callbacks": [poison], "log_every_n_steps": 4}
    with pytest.raises(ls.UserError, match="diverged at step 4: a trained parameter is not finite"):
        fit(small_module(method=ls.Dense()), Digits(batch_size=144), tmp_path, **options)
