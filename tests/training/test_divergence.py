from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from test_module import fit, small_module
from torch import Tensor

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits


def test_a_diverged_run_names_its_step_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, index: int) -> None:
            if trainer.global_step == 15:
                images: Tensor = batch[0]
                images[0] = math.nan

    keep = ModelCheckpoint(tmp_path, filename="last")
    with pytest.raises(ls.UserError, match=r"diverged at step 15.*last\.ckpt"):
        fit(
            small_module(),
            Digits(batch_size=144),
            tmp_path,
            max_epochs=3,
            callbacks=[Poison(), keep],
        )
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 10
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_a_last_step_of_an_epoch_that_diverges_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.global_step == 20:
                next(p for p in pl_module.parameters() if p.requires_grad).data.view(-1)[0] = math.nan

    keep = ModelCheckpoint(tmp_path, filename="last")
    settings = {"max_epochs": 3, "callbacks": [Poison(), keep], "log_every_n_steps": 100}
    with pytest.raises(ls.UserError, match=r"diverged at step 20.*last\.ckpt"):
        fit(small_module(method=ls.Dense()), Digits(batch_size=144), tmp_path, **settings)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 10
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_a_nan_score_is_an_error_that_names_the_step(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, index: int) -> None:
            if trainer.global_step == 3:
                scores = dict(pl_module.named_parameters())["network.0.scores"]
                with torch.no_grad():
                    scores[0] = math.nan

    with pytest.raises(ls.UserError, match="diverged at step 3: a score is NaN"):
        fit(small_module(), Digits(), tmp_path, callbacks=[Poison()])
