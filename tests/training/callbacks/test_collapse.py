"""A network that nothing flows through is found before it is trained."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import Callback, Trainer
from small_runs import quiet_trainer
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from lightning_subnets import SNIP, EdgePopup, FixedMask, Method, Supermask, UserError, density
from lightning_subnets.datamodules import Digits
from lightning_subnets.graph.diagnostics import Diagnosis, diagnose
from lightning_subnets.masking.maskable import find_weights
from lightning_subnets.training.callbacks import collapse
from lightning_subnets.training.module import SubnetModule


def chain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 10))


def full(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.ones_like(each.parameter, dtype=torch.bool) for name, each in find_weights(network).masked.items()
    }


def module_of(network: nn.Module, method: Method, **options: Any) -> SubnetModule:
    return SubnetModule(
        network,
        method,
        weights="kaiming_normal",
        optimizer=lambda trained: torch.optim.SGD(trained, lr=0.01),
        **options,
    )


def fit(module: SubnetModule, **options: Any) -> Trainer:
    trainer = quiet_trainer(limit_train_batches=2, limit_val_batches=0, **options)
    trainer.fit(module, datamodule=Digits())
    return trainer


def emptied(network: nn.Module, name: str) -> dict[str, Tensor]:
    masks = full(network)
    masks[name][:] = False
    return masks


def test_a_network_without_a_path_is_only_trained_if_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    network = chain()
    method, found = (
        FixedMask(emptied(network, "3.weight")),
        "no weight is left of 3.weight; nothing flows through 1.weight, 5.weight",
    )
    with pytest.raises(UserError, match=rf"no path is left .* {found}\. Take"):
        fit(module_of(network, method))
    assert fit(module_of(chain(), method, allow_collapse=True)).global_step == 2
    assert found in capsys.readouterr().err


class Residual(nn.Sequential):
    """A block whose shortcut carries what its convolutions do not."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), BasicBlock(4, 4), nn.Flatten(), nn.Linear(144, 10))


def test_an_empty_layer_beside_a_shortcut_is_named_and_the_network_trained(capsys: pytest.CaptureFixture[str]) -> None:
    network = Residual()
    assert fit(module_of(network, FixedMask(emptied(network, "1.conv2.weight")))).global_step == 2
    said = capsys.readouterr().err
    assert "layer collapse at density" in said
    assert "no weight is left of 1.conv2.weight; nothing flows through 1.conv1.weight" in said


@pytest.mark.parametrize("method", [EdgePopup(0.5), Supermask(0.5)])
def test_nothing_is_printed_about_a_network_that_has_paths(method: Method, capsys: pytest.CaptureFixture[str]) -> None:
    fit(module_of(chain(), method))
    assert "collapse" not in capsys.readouterr().err


def test_masks_that_cut_all_paths_without_an_empty_layer_are_found() -> None:
    network = chain()
    masks = full(network)
    masks["1.weight"][2:] = False  # only units 0 and 1 get something
    masks["3.weight"][:, :2] = False  # only units 2 and 3 pass it on
    with pytest.raises(UserError, match=r"no path is left .* nothing flows through 1.weight, 3.weight, 5.weight"):
        fit(module_of(network, FixedMask(masks)))


class Pruning(Callback):
    """Takes a unit away before the third epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            with torch.no_grad():
                pl_module.network[3].scores[0] = False


def test_a_network_is_checked_again_only_after_weights_have_been_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    network = chain()
    masks = full(network)
    masks["1.weight"][0] = False
    looked: list[float] = []

    def diagnose_and_count(network: nn.Module, *arguments: Any) -> Diagnosis:
        looked.append(density(network))
        return diagnose(network, *arguments)

    monkeypatch.setattr(collapse, "diagnose", diagnose_and_count)
    fit(module_of(network, FixedMask(masks)), max_epochs=4, callbacks=[Pruning()])
    assert looked == [(312 - 64) / 312, (312 - 64 - 4) / 312]


class Branching(nn.GELU):
    """An activation whose code depends on the numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.sum()) else x


@pytest.mark.parametrize("reason", ["cannot be followed", "KeyError('unexpected')"])
def test_a_network_whose_units_cannot_be_followed_is_trained_all_the_same(
    reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network: Any = timm.models.VisionTransformer(8, 4, 1, num_classes=10, embed_dim=24, depth=1, num_heads=3)
    network.blocks[0].mlp.act = Branching()
    if "KeyError" in reason:
        monkeypatch.setattr(collapse, "diagnose", lambda *_: vars(network)["unexpected"])
    assert fit(module_of(network, EdgePopup(0.5)), max_epochs=2).global_step == 4
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("whether a path ")]
    assert reason in said


def test_a_subclass_whose_hook_keeps_the_method_from_pruning_is_an_error() -> None:
    class Own(SubnetModule):
        def on_fit_start(self) -> None:
            pass

    with pytest.raises(UserError, match=r"Own overrides on_fit_start.* call super\(\)\.on_fit_start\(\) there"):
        fit(Own(chain(), SNIP(0.1), optimizer=torch.optim.SGD))
    assert fit(Own(chain(), EdgePopup(0.5), optimizer=torch.optim.SGD)).global_step > 0  # it has nothing to prune
