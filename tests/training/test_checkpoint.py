"""The content of a checkpoint, and the refusal of a checkpoint of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import quiet_trainer
from torch import nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking.digest import weights_digest
from lightning_subnets.training.checkpoint import read
from lightning_subnets.training.module import SubnetModule


def small_module(weights: str | None = "signed_constant", method: ls.Method | None = None) -> SubnetModule:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    return SubnetModule(
        network,
        method or ls.EdgePopup(0.5),
        weights=weights,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    )


def saved(module: SubnetModule, path: Path) -> dict[str, Any]:
    trainer = quiet_trainer(max_steps=2)
    trainer.fit(module, datamodule=Digits())
    trainer.save_checkpoint(path)
    return read(path)


def test_a_checkpoint_omits_the_weights_that_the_seed_gives_and_restores_them(tmp_path: Path) -> None:
    module, path = small_module(), tmp_path / "run.ckpt"
    content = saved(module, path)
    assert content["subnet"] == {
        "network": "Sequential",
        "method": "EdgePopup",
        "density": 0.5,
        "allocation": "uniform",
        "absolute": True,
        "weights": "signed_constant",
        "seed": 0,
    }
    assert set(content["state_dict"]) == {
        *("network.1.scores", "network.4.scores"),
        *(f"network.2.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")),
    }
    again = small_module()
    quiet_trainer(max_steps=3).fit(again, datamodule=Digits(), ckpt_path=path)
    assert weights_digest(again.network) == weights_digest(module.network) == content["weights_digest"]
    restored = small_module()
    quiet_trainer().test(restored, datamodule=Digits(), ckpt_path=path, verbose=False)
    assert all(torch.equal(value, restored.state_dict()[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("kept", [{"weights": None}, {"method": ls.Dense()}], ids=["given", "trained"])
def test_a_checkpoint_holds_the_weights_that_the_seed_does_not_give(kept: dict[str, Any], tmp_path: Path) -> None:
    module, path = small_module(**kept), tmp_path / "run.ckpt"
    content = saved(module, path)
    assert content["state_dict"].keys() == module.state_dict().keys()
    restored = small_module(**kept)
    quiet_trainer().test(restored, datamodule=Digits(), ckpt_path=path, verbose=False)
    assert all(torch.equal(value, restored.state_dict()[key]) for key, value in module.state_dict().items())


def test_frozen_weights_that_have_changed_are_refused(tmp_path: Path) -> None:
    module, path, trainer = small_module(), tmp_path / "run.ckpt", quiet_trainer(max_steps=2)
    trainer.fit(module, datamodule=Digits())
    trainer.save_checkpoint(path)  # the module caches the digest of its weights
    with torch.no_grad():
        ls.raw_weight(module.network[1])[0, 0] += 1  # type: ignore[index]
    trainer.save_checkpoint(path)
    with pytest.raises(ls.UserError, match=r"the weights drawn here .* are not those of the checkpoint"):
        quiet_trainer().test(small_module(), datamodule=Digits(), ckpt_path=path, verbose=False)
