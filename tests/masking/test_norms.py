"""Scales and shifts of norms that are trained beside the scores."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from small_runs import quiet_trainer
from torch import nn

from lightning_subnets import SNIP, EdgePopup, SubnetModule, UserError, mask_, masks, read_masks
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking.digest import weights_digest
from lightning_subnets.networks import Conv2, ResNet20


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def module() -> SubnetModule:
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return SubnetModule(plain(), EdgePopup(0.5), schedule="constant", optimizer=optimizer, norms="trained")


def test_scores_and_norms_are_trained_and_nothing_else() -> None:
    network = mask_(ResNet20(width_multiplier=0.125), EdgePopup(0.5), norms="trained")
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    norms = {f"{name}.{key}" for name, each in network.named_modules() if "BatchNorm" in type(each).__name__
             for key in ("weight", "bias")}  # fmt: skip
    assert norms
    assert trained == norms | {name for name, _ in network.named_parameters() if name.endswith("scores")}
    before, frozen = copy.deepcopy(network.state_dict()), weights_digest(network, frozen=True)
    torch.autograd.backward(network(torch.randn(4, 3, 8, 8)).square().sum())
    torch.optim.SGD([each for each in network.parameters() if each.requires_grad], lr=0.1).step()
    assert {name for name, each in network.named_parameters() if not torch.equal(each, before[name])} == trained
    assert weights_digest(network, frozen=True) == frozen


def test_a_run_with_trained_norms_resumes_and_its_masks_can_be_read(tmp_path: Path) -> None:
    whole, first, second = module(), module(), module()
    for each, epochs, resume in ((whole, 2, None), (first, 1, None), (second, 2, tmp_path / "first.ckpt")):
        trainer = quiet_trainer(max_epochs=epochs, limit_train_batches=3, limit_val_batches=0)
        trainer.fit(each, datamodule=Digits(), ckpt_path=resume)
        if each is first:
            trainer.save_checkpoint(tmp_path / "first.ckpt")
    state = whole.network.state_dict()
    assert not torch.equal(state["1.weight"], torch.ones(4))
    assert [key for key, each in second.network.state_dict().items() if not torch.equal(each, state[key])] == []
    read = read_masks(tmp_path / "first.ckpt", plain())
    assert all(torch.equal(mask, read[name]) for name, mask in masks(first.network).items())


@pytest.mark.parametrize(
    ("network", "method", "norms", "message"),
    [
        (ResNet20(), SNIP(0.5), "trained", "SNIP does not: leave it out"),
        (Conv2(norm="batch"), EdgePopup(0.5), "trained", "Conv2 has no norms with scales and shifts"),
        (ResNet20(), EdgePopup(0.5), "taught", "unknown value of norms 'taught'.* Known: frozen, trained"),
    ],
)
def test_norms_that_cannot_be_trained_are_an_error(
    network: nn.Module, method: object, norms: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        mask_(network, method, norms=norms)  # type: ignore[arg-type]
