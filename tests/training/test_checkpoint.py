"""The content of a checkpoint, and the refusal of a checkpoint of another run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from small_runs import quiet_trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking.digest import weights_digest
from lightning_subnets.masking.method import ScoredWeight
from lightning_subnets.training.checkpoint import read, whole_epochs
from lightning_subnets.training.module import SubnetModule


class Name(str):
    """A text of another type."""


def _unmasked() -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)]


def small_module(weights: str | None = "signed_constant", method: ls.Method | None = None) -> SubnetModule:
    return SubnetModule(
        nn.Sequential(*_unmasked()),
        method or ls.EdgePopup(0.5),
        weights=weights,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    )


def saved(module: SubnetModule, path: Path) -> dict[str, Any]:
    trainer = quiet_trainer(max_steps=2)
    trainer.fit(module, datamodule=Digits())
    trainer.save_checkpoint(path)
    return read(path)


def test_a_module_is_loaded_from_a_checkpoint_as_any_other(tmp_path: Path) -> None:
    module = small_module()
    saved(module, tmp_path / "run.ckpt")
    other = small_module()
    loaded = SubnetModule.load_from_checkpoint(
        tmp_path / "run.ckpt", network=nn.Sequential(*_unmasked()), method=ls.EdgePopup(0.5), weights="signed_constant"
    )
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in module.state_dict().items())
    assert any(not torch.equal(value, other.state_dict()[key]) for key, value in module.state_dict().items())


class Remembers(Callback):
    """Has a state, like a user's callback."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict


class Described(Digits):
    def __init__(self, root: Path, transform: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.filterwarnings("ignore:the checkpoints leave out datamodule_hyper_parameters")
def test_what_users_keep_in_a_checkpoint_is_plain_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    numbers = {"best": np.float64(0.5), "worst": np.longdouble(0.25), "at": (np.int64(3), True)}
    mine = Remembers(numbers | {"file": tmp_path, "name": Name("a")})
    trainer = quiet_trainer(max_steps=2, callbacks=[mine])
    trainer.fit(small_module(), datamodule=Described(tmp_path, transform=len))
    trainer.save_checkpoint(path)
    content = read(path)
    assert content["datamodule_hyper_parameters"] == {"root": str(tmp_path)}
    again = Remembers({})
    quiet_trainer(max_steps=3, callbacks=[again]).fit(small_module(), datamodule=Digits(), ckpt_path=path)
    assert again.state == {"best": 0.5, "worst": 0.25, "at": (3, True), "file": str(tmp_path), "name": "a"}
    found = (again.state["best"], again.state["worst"], *again.state["at"])
    assert [type(value) for value in found] == [float, float, int, bool]


def test_a_hyperparameter_that_is_left_out_is_named(tmp_path: Path) -> None:
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(small_module(), datamodule=Described(tmp_path, transform=len))
    with pytest.warns(UserWarning, match=r"leave out datamodule_hyper_parameters: transform is a builtins\."):
        trainer.save_checkpoint(tmp_path / "run.ckpt")


itself: list[Any] = []
itself.append(itself)
named = nn.Parameter(torch.zeros(1))
named.mine = "a text"  # type: ignore[attr-defined]
foreign = [object(), [{3}, b"bytes"], torch.zeros(1, dtype=torch.complex64), torch.zeros(1, device="meta")]


@pytest.mark.parametrize("value", [*foreign, itself, named], ids=range(6))
def test_a_state_that_could_not_be_read_again_is_left_out(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    trainer = quiet_trainer(max_steps=1, callbacks=[Remembers({"seen": value})])
    trainer.fit(small_module(), datamodule=Digits())
    with pytest.warns(UserWarning, match=r"leave out callbacks: .*Remembers\['seen'\].*they hold tensors"):
        trainer.save_checkpoint(path)
    assert read(path)["callbacks"] == {}


class Mysterious(torch.optim.SGD):
    """Has a state that no checkpoint can hold."""

    def step(self, closure: Any = None) -> Any:
        self.state[self.param_groups[0]["params"][0]]["secret"] = object()
        return super().step(closure)


@pytest.mark.filterwarnings("ignore:the checkpoints leave out")
def test_a_state_that_a_run_cannot_do_without_is_an_error_when_it_is_written(tmp_path: Path) -> None:
    module = SubnetModule(nn.Sequential(*_unmasked()), ls.EdgePopup(0.5), optimizer=Mysterious)
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(module, datamodule=Digits())
    with pytest.raises(ls.UserError, match="no run can resume from a checkpoint without its optimizer_states"):
        trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert not (tmp_path / "run.ckpt").exists()


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


def test_a_checkpoint_of_a_run_that_has_not_begun_has_no_epoch(tmp_path: Path) -> None:
    path, trainer = tmp_path / "run.ckpt", quiet_trainer(max_steps=0)
    trainer.fit(small_module(), datamodule=Digits())
    trainer.save_checkpoint(path)
    assert whole_epochs(read(path)) == 0


@pytest.mark.parametrize("kept", [{"weights": None}, {"method": ls.Dense()}], ids=["given", "trained"])
def test_a_checkpoint_holds_the_weights_that_the_seed_does_not_give(kept: dict[str, Any], tmp_path: Path) -> None:
    module, path = small_module(**kept), tmp_path / "run.ckpt"
    content = saved(module, path)
    assert content["state_dict"].keys() == module.state_dict().keys()
    restored = small_module(**kept)
    quiet_trainer().test(restored, datamodule=Digits(), ckpt_path=path, verbose=False)
    assert all(torch.equal(value, restored.state_dict()[key]) for key, value in module.state_dict().items())


class Distilled(SubnetModule):
    """Has a frozen network of its own beside the masked one."""

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self.teacher = nn.Linear(64, 10).requires_grad_(False)


def test_a_frozen_module_beside_the_network_is_restored(tmp_path: Path) -> None:
    def distilled() -> Distilled:
        return Distilled(nn.Sequential(*_unmasked()), method=ls.EdgePopup(0.5), weights="signed_constant")

    module, again = distilled(), distilled()
    saved(module, tmp_path / "run.ckpt")
    assert not torch.equal(again.teacher.weight, module.teacher.weight)
    quiet_trainer(max_steps=3).fit(again, datamodule=Digits(), ckpt_path=tmp_path / "run.ckpt")
    assert torch.equal(again.teacher.weight, module.teacher.weight)


def test_frozen_weights_that_have_changed_are_refused(tmp_path: Path) -> None:
    module, path, trainer = small_module(), tmp_path / "run.ckpt", quiet_trainer(max_steps=2)
    trainer.fit(module, datamodule=Digits())
    trainer.save_checkpoint(path)  # the module caches the digest of its weights
    with torch.no_grad():
        ls.raw_weight(module.network[1])[0, 0] += 1  # type: ignore[index]
    trainer.save_checkpoint(path)
    with pytest.raises(ls.UserError, match=r"the weights drawn here .* are not those of the checkpoint"):
        quiet_trainer().test(small_module(), datamodule=Digits(), ckpt_path=path, verbose=False)


def test_an_argument_of_a_method_with_the_name_of_one_of_the_run_is_refused() -> None:
    class Seeded(ls.EdgePopup):
        def __init__(self, density: float, seed: int) -> None:
            super().__init__(density)
            self.seed = seed

    with pytest.raises(ls.UserError, match=r"Seeded.identity\(\) has seed, which checkpoints have for the run"):
        small_module(method=Seeded(0.5, seed=1))


def test_a_method_may_keep_what_it_computed() -> None:
    class Remembering(ls.EdgePopup):
        def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
            self.newest = super().masks(weights)
            return self.newest

    module, trainer = small_module(method=Remembering(0.5)), quiet_trainer(max_steps=1)
    trainer.fit(module, datamodule=Digits())
    trainer.test(module, datamodule=Digits(), verbose=False)
