"""Averages keep frozen weights, masks follow the average, and a checkpoint holds the network that is reported."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, WeightAveraging
from small_runs import conv_module, quiet_trainer
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_subnets import SNIP, Dense, EdgePopup, GemMiner, IteRand, Magnitude, Method, UserError
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import Averaging, IterativePruning, LastCheckpoint
from lightning_subnets.training.callbacks.last_checkpoint import Stopped
from lightning_subnets.training.checkpoint import read, validate_and_complete_
from lightning_subnets.training.module import SubnetModule


class EveryEpoch(WeightAveraging):
    """A user's own."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None


AVERAGES: dict[str, Callable[[], WeightAveraging]] = {
    "EMA": lambda: EMAWeightAveraging(decay=0.9),
    "EMA of parameters": lambda: EMAWeightAveraging(decay=0.7, use_buffers=False),
    "late EMA": lambda: EMAWeightAveraging(decay=0.9, update_starting_at_step=7, update_every_n_steps=2),
    "mean": WeightAveraging,
    "many at once": lambda: WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.9)),  # type: ignore[no-untyped-call]
    "mean of epochs": EveryEpoch,
}
METHODS: dict[str, Callable[[], Method]] = {
    "EdgePopup": lambda: EdgePopup(0.3),
    "IteRand": lambda: IteRand(0.3, every=2),
    "SNIP": lambda: SNIP(0.3),
    "Dense": Dense,
    "Magnitude": lambda: Magnitude(1.0),
}
EPOCH = 5  # steps


def with_norms(method: str) -> SubnetModule:
    return conv_module(METHODS[method]())


class Steps(Callback):
    """Keeps the trained parameters after each step, and can stop the run during a step."""

    def __init__(self, stop_in: int | None = None) -> None:
        self.stop_in, self.after = stop_in, list[dict[str, Tensor]]()

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.stop_in:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
        self.after.append({name: each.detach().clone() for name, each in trained.items()})


def fit(
    trained: SubnetModule, folder: Path, *callbacks: Callback, epochs: int = 2, resume: bool = False
) -> dict[str, Any]:
    """The checkpoint that a run leaves."""
    last = LastCheckpoint(folder)
    limits = {"max_epochs": epochs, "limit_train_batches": EPOCH, "limit_val_batches": 1}
    trainer = quiet_trainer(callbacks=[*callbacks, last], **limits)
    folder.mkdir(exist_ok=True)
    trainer.fit(trained, datamodule=Digits(batch_size=32), ckpt_path=last.path if resume else None)
    return read(last.path)


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


@pytest.mark.parametrize(
    ("average", "method"),
    [
        ("EMA", "EdgePopup"),
        *(pytest.param(average, "EdgePopup", marks=pytest.mark.thorough) for average in AVERAGES if average != "EMA"),
        *(pytest.param("EMA", method, marks=pytest.mark.thorough) for method in ("IteRand", "SNIP", "Dense")),
    ],
)
def test_a_run_and_a_resumed_run_end_as_the_network_in_the_checkpoint(
    average: str, method: str, tmp_path: Path
) -> None:
    whole = with_norms(method)
    content = fit(whole, tmp_path / "whole", AVERAGES[average]())
    states = ("state_dict", "current_model_state", "averaging_state")
    saved = {state: copy.deepcopy(content[state]) for state in states}
    loaded = with_norms(method)
    validate_and_complete_(content, loaded, to_train=False)
    loaded.load_state_dict(content["state_dict"])
    assert differing(loaded.state_dict(), whole.state_dict()) == []
    for stop_in in (1, EPOCH - 1):  # the second after the last step of an epoch, once it has been validated
        folder = tmp_path / f"stopped in {stop_in}"
        with pytest.raises(Stopped):
            fit(with_norms(method), folder, AVERAGES[average](), Steps(stop_in))
        resumed = with_norms(method)
        again = fit(resumed, folder, AVERAGES[average](), resume=True)
        assert differing(resumed.state_dict(), whole.state_dict()) == []
        assert [key for state in states for key in differing(again[state], saved[state])] == []
    at_its_end = with_norms(method)
    fit(at_its_end, folder, AVERAGES[average](), resume=True)
    assert differing(at_its_end.state_dict(), whole.state_dict()) == []


@pytest.mark.parametrize(
    ("decay", "method"),
    [
        (0.9, "EdgePopup"),
        *(pytest.param(0.9, method, marks=pytest.mark.thorough) for method in ("IteRand", "SNIP", "Dense")),
        pytest.param(0.7, "EdgePopup", marks=pytest.mark.thorough),
    ],
)
def test_trained_parameters_are_averaged_and_frozen_ones_are_those_of_a_run_without_an_average(
    decay: float, method: str, tmp_path: Path
) -> None:
    averaged, alone, steps = with_norms(method), with_norms(method), Steps()
    content = fit(averaged, tmp_path / "averaged", EMAWeightAveraging(decay=decay), steps)
    fit(alone, tmp_path / "alone")
    expected = steps.after[0]
    for values in steps.after[1:]:
        expected = {name: decay * mean + (1 - decay) * values[name] for name, mean in expected.items()}
    frozen = {name: each for name, each in alone.named_parameters() if not each.requires_grad}
    assert len(steps.after) == 2 * EPOCH
    assert differing(dict(averaged.named_parameters()), expected | frozen) == []
    in_file = {"EdgePopup": 0, "Dense": 0, "SNIP": 2, "IteRand": 6}[method]  # masks, and weights drawn again
    for state in ("state_dict", "current_model_state"):
        assert len(content[state].keys() & frozen.keys()) == in_file


class FirstRound(WeightAveraging):
    """The mean of the steps of the first epoch alone."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx < EPOCH


class Validated(Callback):
    """Keeps the parameters that each epoch is validated with."""

    def __init__(self) -> None:
        self.epochs: dict[int, dict[str, Tensor]] = {}

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if not trainer.sanity_checking:
            found = {name: each.detach().clone() for name, each in module.named_parameters()}
            self.epochs[trainer.current_epoch] = found


def test_until_its_first_update_the_average_is_the_network_in_training(tmp_path: Path) -> None:
    def run(name: str, *averages: Callback) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        validated = Validated()
        last = fit(with_norms("EdgePopup"), tmp_path / name, *averages, validated)["state_dict"]
        return last, list(validated.epochs.values())

    network, epochs = run("alone")
    _, (before, after) = run("late", EMAWeightAveraging(update_starting_at_step=EPOCH + 1))
    never, _ = run("never", EMAWeightAveraging(update_starting_at_step=2 * EPOCH))
    assert differing(before, epochs[0]) == []
    assert "network.0.scores" in differing(after, epochs[1])
    assert differing(never, network) == []


@pytest.mark.parametrize(("device", "where"), [(None, "meta"), ("cpu", "cpu")])
def test_an_average_follows_the_network_to_its_device_unless_the_user_names_one(device: Any, where: str) -> None:
    average, network = EMAWeightAveraging(device), with_norms("EdgePopup")
    trainer: Any = SimpleNamespace(callbacks=[average])
    for callback in (average, Averaging()):
        callback.setup(trainer, network, "fit")
    network.to("meta")  # as Lightning moves it to a GPU after setup
    Averaging().on_fit_start(trainer, network)
    averaged = average._average_model
    assert averaged is not None
    trained = [each for each in (*averaged.module.parameters(), *averaged.module.buffers()) if each.requires_grad]
    assert {each.device.type for each in trained} == {where}


def test_pruning_in_rounds_prunes_the_average_too_and_rewinds_it(tmp_path: Path) -> None:
    def rounds(*averages: Callback) -> list[dict[str, Tensor]]:
        validated, pruning = Validated(), IterativePruning(rounds=2, epochs_per_round=1, fraction=0.5)
        fit(with_norms("Magnitude"), tmp_path / str(len(averages)), pruning, *averages, validated, epochs=3)
        return list(validated.epochs.values())

    (averaged, *rewound), (trained, *pruned) = rounds(FirstRound()), rounds()
    names = [name for name in trained if not name.endswith("scores")]
    masks = trained.keys() - names
    first = dict(with_norms("Magnitude").named_parameters())
    assert not any(torch.equal(averaged["network.5.weight"], each["network.5.weight"]) for each in (first, trained))
    for average, alone in zip(rewound, pruned, strict=True):
        assert [name for name in masks if not torch.equal(average[name], alone[name])] == []
        assert [name for name in names if not torch.equal(average[name], alone[name])] == []
    assert [sum(int(each[name].sum()) for name in masks) for each in rewound] == [738, 369]


def test_a_callback_that_changes_frozen_weights_is_found_in_the_first_epoch(tmp_path: Path) -> None:
    class Elsewhere(Callback):
        """An average of all parameters, made by hand."""

        def on_validation_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
            if not trainer.sanity_checking:
                for parameter in module.parameters():
                    parameter.data.copy_(0.9 * parameter + 0.1 * parameter)

    with pytest.raises(UserError, match=r"network\.0\.weight is frozen, and a callback or SubnetModule has changed"):
        fit(with_norms("EdgePopup"), tmp_path, Elsewhere())


def test_a_frozen_teacher_beside_the_network_may_follow_it(tmp_path: Path) -> None:
    class Teacher(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
            assert isinstance(module.teacher, torch.nn.Linear)
            module.teacher.weight.mul_(0.9)

    module = with_norms("EdgePopup")
    module.teacher = torch.nn.Linear(4, 4).requires_grad_(False)
    before = module.teacher.weight.clone()
    fit(module, tmp_path, Teacher())
    assert not torch.equal(module.teacher.weight, before)


@pytest.mark.thorough
@pytest.mark.parametrize("average", [EMAWeightAveraging, WeightAveraging])
def test_a_method_whose_scores_hold_flags_cannot_be_averaged(average: Callable[[], WeightAveraging]) -> None:
    module = conv_module(GemMiner(0.3, every=1), allow_collapse=True)
    with pytest.raises(UserError, match=r"Averaging averages scores, and some scores of GemMiner are flags .* remove"):
        quiet_trainer(max_steps=2, callbacks=[average()]).fit(module, datamodule=Digits())
    assert module.global_step == 0
