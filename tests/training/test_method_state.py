"""What training changes in a method of one's own is saved in checkpoints, and restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import quiet_trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking.method import ScoredWeight
from lightning_subnets.training.module import SubnetModule


class Cooled(ls.EdgePopup):
    """A method of one's own whose masks are softer at a higher temperature, which falls with each step."""

    cacheable = False

    def __init__(self, density: float) -> None:
        super().__init__(density)
        self.temperature: Any = 1.0
        self.levels = [1.0]

    def uncached_weight(self, weight: ScoredWeight) -> Tensor:
        assert weight.scores is not None
        soft: Tensor = weight.weight * (weight.scores / self.temperature).sigmoid() * self.levels[0]
        return soft

    def after_step_(self, network: nn.Module, step: int, images: int | None) -> None:
        self.temperature *= 0.8
        self.levels[0] *= 0.5


class Rising(ls.EdgePopup):
    """A method of one's own that keeps the scores above a threshold, which rises with each step."""

    def __init__(self) -> None:
        super().__init__(0.5)
        self.threshold = 0.0

    def num_kept(self, total: int) -> None:
        return None

    def masks(self, weights: Any) -> list[Tensor]:
        return [weight.scores.abs() > self.threshold for weight in weights]

    def after_step_(self, network: nn.Module, step: int, images: int | None) -> None:
        self.threshold += 0.001


def small_module(method: ls.Method) -> SubnetModule:
    return SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), method, optimizer=torch.optim.SGD)


def saved(module: SubnetModule, path: Path) -> dict[str, Any]:
    trainer = quiet_trainer(max_steps=2)
    trainer.fit(module, datamodule=Digits())
    trainer.save_checkpoint(path)
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def measured(module: SubnetModule, path: Path | None) -> Any:
    return quiet_trainer().test(module, datamodule=Digits(), ckpt_path=path, verbose=False)


def test_what_training_changes_in_a_method_is_restored(tmp_path: Path) -> None:
    module, last = small_module(Cooled(0.5)), tmp_path / "last.ckpt"
    content = saved(module, last)
    assert content["method_state"] == {"temperature": pytest.approx(0.64), "levels": [0.25]}
    assert (content["subnet"]["temperature"], content["subnet"]["levels"]) == (1.0, [1.0])
    assert measured(small_module(Cooled(0.5)), last) == measured(module, None)


def test_what_training_had_not_changed_yet_is_restored_too(tmp_path: Path) -> None:
    module, first = small_module(Cooled(0.5)), tmp_path / "first.ckpt"
    trainer = quiet_trainer(max_steps=2)
    trainer.fit(module, datamodule=Digits())
    assert isinstance(module.method, Cooled)
    module.method.temperature, module.method.levels = 1.0, [1.0]
    trainer.save_checkpoint(first)
    expected = measured(module, None)
    module.method.temperature, module.method.levels = 0.1, [0.1]
    assert measured(module, first) == expected


def test_a_method_without_a_state_adds_nothing_to_a_checkpoint(tmp_path: Path) -> None:
    assert "method_state" not in saved(small_module(ls.EdgePopup(0.5)), tmp_path / "last.ckpt")


def test_a_state_of_a_method_that_no_checkpoint_can_hold_is_named(tmp_path: Path) -> None:
    method = Cooled(0.5)
    module = small_module(method)
    saved(module, tmp_path / "last.ckpt")
    method.temperature = torch.tensor([0.5])
    with pytest.raises(ls.UserError, match=r"Cooled.identity\(\) has temperature = tensor"):
        saved(module, tmp_path / "last.ckpt")


def test_masks_that_depend_on_what_training_changes_are_never_outdated(tmp_path: Path) -> None:
    def trained(steps: int, path: Path | None = None, **options: Any) -> Tensor:
        module = small_module(Rising())
        module.schedule = "constant"
        trainer = quiet_trainer(max_epochs=2, max_steps=steps, **options)
        trainer.fit(module, datamodule=Digits(batch_size=256), ckpt_path=path)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return module.network.get_parameter("1.scores").detach()

    expected = trained(10, limit_val_batches=0)
    assert torch.equal(trained(10, val_check_interval=2), expected)
    assert not torch.equal(trained(7, limit_val_batches=0), expected)
    assert torch.equal(trained(10, tmp_path / "7.ckpt", limit_val_batches=0), expected)


@pytest.mark.parametrize(
    ("method", "state"),
    [
        (Cooled, {"masks": 1}),
        (Cooled, {"seed": 1}),
        (Cooled, {"levels": "high"}),
        (ls.EdgePopup, {"density": 0.1}),
    ],
)
def test_a_state_that_is_not_of_the_method_is_refused(
    method: type[ls.EdgePopup], state: dict[str, Any], tmp_path: Path
) -> None:
    content = saved(small_module(method(0.5)), tmp_path / "last.ckpt")
    torch.save(content | {"method_state": state}, tmp_path / "damaged.ckpt")
    message = rf"the checkpoint is damaged: {method.__name__} cannot have '{min(state)}' = "
    with pytest.raises(ls.UserError, match=message):
        measured(small_module(method(0.5)), tmp_path / "damaged.ckpt")
