"""Runs that are resumed from a checkpoint of any step equal uninterrupted ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from test_module import fit, sgd, small_module, small_network
from torch import Tensor

from lightning_subnets.datamodules import CIFAR10, Digits
from lightning_subnets.training.checkpoint import read
from lightning_subnets.training.schedule import learning_rate_factor


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.thorough
def test_a_resumed_run_with_augmentation_equals_the_uninterrupted_one(tmp_path: Path, cifar_folder: Path) -> None:
    def run(ckpt_path: Path | None = None) -> dict[str, Any]:
        # What another process would find: other random numbers drawn before.
        seed_everything(0 if ckpt_path is None else 1, verbose=False)
        module = small_module(network=small_network(channels=3), warmup_epochs=1)
        images = CIFAR10(str(cifar_folder), batch_size=16)
        folder = tmp_path / ("first" if ckpt_path is None else "second")
        keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        fit(module, images, tmp_path, max_epochs=4, callbacks=[keep], ckpt_path=ckpt_path)
        content: dict[str, Any] = torch.load(folder / "epoch=3.ckpt", weights_only=True)
        return content

    whole, resumed = run(), run(tmp_path / "first" / "epoch=1.ckpt")
    for found in (whole, resumed):
        found["momenta"] = found["optimizer_states"][0]["state"]
    for key in ("state_dict", "momenta"):
        torch.testing.assert_close(resumed[key], whole[key], rtol=0.0, atol=0.0)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_checkpoint_of_lightning_from_the_middle_of_an_epoch_is_resumed_to_the_bit(tmp_path: Path) -> None:
    def run(folder: str, ckpt_path: Path | None = None) -> dict[str, Tensor]:
        keep = ModelCheckpoint(tmp_path / folder, filename="{step}", save_top_k=-1, every_n_train_steps=8)
        data = Digits(batch_size=128)  # 12 batches an epoch
        fit(small_module(warmup_epochs=1), data, tmp_path, max_epochs=4, callbacks=[keep], ckpt_path=ckpt_path)
        state: dict[str, Tensor] = read(tmp_path / folder / "step=48.ckpt")["state_dict"]
        return state

    whole, resumed = run("first"), run("second", tmp_path / "first" / "step=8.ckpt")
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_checkpoint_of_the_last_batch_of_an_epoch_is_resumed_with_metrics_of_the_next_epoch_alone(
    tmp_path: Path,
) -> None:
    def run(folder: str, ckpt_path: Path | None = None) -> dict[str, float]:
        keep = ModelCheckpoint(tmp_path / folder, filename="{step}", save_top_k=-1, every_n_train_steps=12)
        data = Digits(batch_size=128)  # 12 batches an epoch
        trainer = fit(small_module(), data, tmp_path, max_epochs=2, callbacks=[keep], ckpt_path=ckpt_path)
        return {name: trainer.callback_metrics[name].item() for name in ("train/loss", "train/accuracy", "val/loss")}

    whole, resumed = run("first"), run("second", tmp_path / "first" / "step=12.ckpt")
    assert resumed == whole


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("size", [64, 256])
def test_a_checkpoint_of_the_last_batch_of_an_epoch_is_resumed_with_another_batch_size(
    size: int, tmp_path: Path
) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=12)
    fit(small_module(), Digits(batch_size=128), tmp_path, callbacks=[keep])  # 12 batches an epoch
    rates: list[float] = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    options: dict[str, Any] = {"max_epochs": 2, "callbacks": [Watch(), keep], "ckpt_path": tmp_path / "step=12.ckpt"}
    fit(small_module(), Digits(batch_size=size), tmp_path, **options)
    batches = -(-1437 // size)
    assert rates == pytest.approx(
        [0.1 * learning_rate_factor(batches + i, 2 * batches, 0, "cosine") for i in range(batches)]
    )


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_takes_its_rate_from_its_own_config_and_batch(tmp_path: Path) -> None:
    def run(folder: str, **arguments: Any) -> Trainer:
        keep = ModelCheckpoint(tmp_path / folder, filename="last")
        settings = {"callbacks": [keep], "ckpt_path": arguments.pop("ckpt_path", None)}
        data = Digits(batch_size=arguments.pop("batch_size"))
        module = small_module(lr_batch_size=64, schedule="constant", **arguments)
        return fit(module, data, tmp_path, max_epochs=2 if settings["ckpt_path"] else 1, **settings)

    run("first", batch_size=64)
    resumed = run("second", batch_size=32, optimizer=sgd(0.5), ckpt_path=tmp_path / "first" / "last.ckpt")
    assert resumed.current_epoch == 2
    assert resumed.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.25)
