"""Training in rounds: what is pruned, what is rewound, and at which learning rates."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import QUICKSTART
from lightning.pytorch import Callback, LightningModule, Trainer
from small_runs import conv_module, quiet_trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.commands.cli import main
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking import MaskedWeight
from lightning_subnets.run_files import drawing
from lightning_subnets.training.callbacks import IterativePruning
from lightning_subnets.training.module import SubnetModule
from lightning_subnets.training.schedule import Schedule, learning_rate_factor

STEPS = 5  # of an epoch


class Seen(NamedTuple):
    """What there is at a moment: the network's state, the optimizer's, and the learning rate."""

    state: dict[str, Tensor]
    optimizer: list[dict[str, Tensor]]
    rate: float

    @property
    def masks(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.state.items() if name.endswith("scores")}

    @property
    def trained(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.state.items() if not name.endswith("scores")}


class Watch(Callback):
    """Keeps what there is before each step, by the steps done, and after each, by theirs."""

    def __init__(self) -> None:
        self.before: dict[int, Seen] = {}
        self.after: dict[int, Seen] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.before.setdefault(trainer.global_step, self._seen(trainer, pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.after.setdefault(trainer.global_step, self._seen(trainer, pl_module))

    def _seen(self, trainer: Trainer, module: LightningModule) -> Seen:
        (optimizer,), network = trainer.optimizers, module.network
        assert isinstance(network, nn.Module)
        state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        momenta = [{name: tensor.clone() for name, tensor in each.items()} for each in optimizer.state.values()]
        return Seen(state, momenta, optimizer.param_groups[0]["lr"])


def module(method: ls.Method | None = None, **options: Any) -> SubnetModule:
    return conv_module(method or ls.Magnitude(1.0), warmup_epochs=0.6, **options)


def fit(pruning: IterativePruning, of: SubnetModule | None = None, **arguments: Any) -> Watch:
    """Train, 5 batches an epoch, and say what there was at each step."""
    watch = Watch()
    later = pruning.epochs_per_round - (pruning.rewind_to or 0) // STEPS
    options = {"max_epochs": pruning.epochs_per_round + pruning.rounds * later, "limit_val_batches": 0} | arguments
    quiet_trainer(callbacks=[watch, pruning], **options).fit(of or module(), datamodule=Digits(batch_size=288))
    return watch


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, bool]:
    return {name: torch.equal(one[name], other[name]) for name in one}


@pytest.mark.parametrize(
    "rewind_to", [pytest.param(0, marks=pytest.mark.thorough), 3, pytest.param(7, marks=pytest.mark.thorough)]
)
def test_a_rewind_puts_everything_back_to_the_bit(rewind_to: int) -> None:
    pruning = IterativePruning(rounds=2, epochs_per_round=2, rewind_to=rewind_to)
    watch = fit(pruning)
    length = STEPS * (2 - rewind_to // STEPS)
    then = watch.before[rewind_to]
    for start in (10, 10 + length):
        now = watch.before[start]
        names = ("0.weight", "0.bias", "1.weight", "1.bias", "5.weight", "5.bias", "1.running_mean", "1.running_var")
        assert equal(now.trained, then.trained) == dict.fromkeys(now.trained, True)
        assert now.trained.keys() >= {*names, "1.num_batches_tracked"}
        assert not any(equal(watch.after[start].trained, now.trained).values())
        assert now.optimizer == []
        assert len(watch.after[start + 1].optimizer) == 6
    assert max(watch.after) == 10 + 2 * length


def test_without_a_rewind_a_round_continues_with_the_weights_but_without_momenta() -> None:
    watch = fit(IterativePruning(rounds=2, epochs_per_round=1, rewind_to=None))
    for start in (5, 10):
        now, then = watch.before[start], watch.after[start]
        assert all(equal(now.trained, then.trained).values())
        assert not all(equal(now.masks, then.masks).values())
        assert (len(then.optimizer), len(now.optimizer)) == (6, 0)


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"fraction": 0.3}, {"0.scores 5.scores": 0.3}),
        ({"fraction": 0.3, "scope": "layer"}, {"0.scores": 0.3, "5.scores": 0.3}),
        (
            {"fraction": 0.3, "scope": "layer", "fractions": {"*": 0.1, "[0-3]": 0.15}},
            {"0.scores": 0.15, "5.scores": 0.1},
        ),
        ({"fraction": 0.3, "scope": "layer", "fractions": {"0": 0.0}}, {"0.scores": 0.0, "5.scores": 0.3}),
    ],
    ids=["global", "layer", "groups", "one left alone"],
)
def test_each_round_keeps_exactly_what_its_fraction_says_and_nothing_comes_back(
    options: dict[str, Any], groups: dict[str, float]
) -> None:
    watch = fit(IterativePruning(rounds=3, epochs_per_round=1, **options), limit_train_batches=2, max_epochs=4)
    rounds = [watch.before[step].masks for step in (0, 2, 4, 6)]
    for before, now in pairwise(rounds):
        for names, fraction in groups.items():
            left, kept = (sum(int(masks[name].sum()) for name in names.split()) for masks in (before, now))
            assert kept == left - int(fraction * left)
        assert not any((now[name] & ~before[name]).any() for name in now)
    assert sum(int(mask.sum()) for mask in rounds[0].values()) == 36 + 1440


def tiny() -> tuple[nn.Module, MaskedWeight, MaskedWeight]:
    """A first layer of weights 1 -2 0.5 | 0.25 -4 3 and a second of 0.1 -0.5."""
    network = ls.mask_(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), ls.Magnitude(1.0), weights=None)
    first, second = ls.masked_weights(network).values()
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.25, -4.0, 3.0]]))
        second.weight.copy_(torch.tensor([[0.1, -0.5]]))
    return network, first, second


def test_the_smallest_remaining_weights_of_the_network_are_pruned() -> None:
    network, first, second = tiny()
    pruning = IterativePruning(rounds=3, epochs_per_round=1, fraction=0.4)
    before = ls.masks(network)
    pruning.prune_(network)  # 8 - int(0.4 * 8) = 5: of the two 0.5 the first stays
    assert all(mask.all() for mask in before.values())
    assert first.mask().tolist() == [[True, True, True], [False, True, True]]
    assert second.mask().tolist() == [[False, False]]
    with torch.no_grad():
        first.weight[1, 0] = 9.0  # pruned, and large: it stays out
    pruning.prune_(network)  # 5 - int(0.4 * 5) = 3
    assert first.mask().tolist() == [[False, True, False], [False, True, True]]
    # 3 - int(0.4 * 3) = 2
    pruning.prune_(network)
    assert first.mask().tolist() == [[False, False, False], [False, True, True]]


def test_the_smallest_remaining_weights_of_each_layer_are_pruned() -> None:
    network, first, second = tiny()
    pruning = IterativePruning(rounds=3, epochs_per_round=1, fraction=0.5, scope="layer")
    pruning.prune_(network)
    assert first.mask().tolist() == [[False, True, False], [False, True, True]]
    assert second.mask().tolist() == [[False, True]]
    pruning.prune_(network)  # 3 - int(1.5) = 2; 1 - int(0.5) = 1
    assert first.mask().tolist() == [[False, False, False], [False, True, True]]
    assert second.mask().tolist() == [[False, True]]


def test_pruning_starts_from_the_mask_that_was_chosen() -> None:
    watch = fit(IterativePruning(rounds=1, epochs_per_round=1), module(ls.Random(0.5)))
    kept = [watch.before[step].masks for step in (0, 5)]
    assert [sum(int(mask.sum()) for mask in masks.values()) for masks in kept] == [738, 738 - int(0.2 * 738)]


@pytest.mark.parametrize(
    ("rewind_to", "schedule", "length"),
    [
        pytest.param(None, "cosine", 10, marks=pytest.mark.thorough),
        (3, "cosine", 10),
        pytest.param(5, "cosine", 5, marks=pytest.mark.thorough),
        pytest.param(7, "constant", 5, marks=pytest.mark.thorough),
    ],
)
def test_each_round_has_the_learning_rates_of_the_first_from_the_rewind_on(
    rewind_to: int | None, schedule: Schedule, length: int
) -> None:
    pruning = IterativePruning(rounds=2, epochs_per_round=2, rewind_to=rewind_to)
    watch = fit(pruning, of=module(schedule=schedule))
    rates = [watch.before[step].rate for step in range(10 + 2 * length)]
    first = rates[:10]
    assert first == [0.1 * learning_rate_factor(step, 10, 3, schedule) for step in range(10)]
    end = 0.0 if schedule == "cosine" else 0.1
    later = first[rewind_to or 0 :]
    expected = later + [end] * (length - len(later))
    assert rates[10:] == expected * 2


def test_accumulated_batches_make_one_step() -> None:
    pruning = IterativePruning(rounds=1, epochs_per_round=2, rewind_to=2)
    watch = fit(pruning, accumulate_grad_batches=2, max_epochs=4)  # 3 steps an epoch
    assert equal(watch.before[6].trained, watch.after[2].trained) == dict.fromkeys(watch.before[6].trained, True)
    assert [watch.before[6 + step].rate for step in range(4)] == [watch.before[2 + step].rate for step in range(4)]
    assert max(watch.after) == 12


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"fraction": 1.0}, r"fraction = 1.0 is outside \(0, 1\)"),
        ({"rounds": 0}, "rounds = 0 is below 1"),
        ({"epochs_per_round": 0}, "epochs_per_round = 0 is below 1"),
        ({"rewind_to": -1}, "rewind_to = -1 .* null is no rewind"),
        ({"fractions": {"0": 0.1}}, "set scope to layer"),
        ({"fractions": {"0": 1.0}, "scope": "layer"}, r"fraction 1.0 of '0' is outside \[0, 1\)"),
    ],
)
def test_an_argument_out_of_range_is_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ls.UserError, match=part):
        IterativePruning(**{"rounds": 1, "epochs_per_round": 1} | options)


@pytest.mark.parametrize(
    ("method", "options", "max_epochs", "part"),
    [
        (ls.EdgePopup(0.5), {}, 6, "EdgePopup has none: set --model.method=Magnitude --model.method.density=1.0"),
        (ls.Dense(), {}, 6, "Dense has none"),
        (None, {}, 30, "max_epochs = 30.*set --trainer.max_epochs=6"),
        (
            None,
            {"fractions": {"6": 0.1}, "scope": "layer"},
            6,
            "fractions: no weight matches '6'; the names are 0.weight, 5.weight",
        ),
        (None, {"rewind_to": 10}, 6, "its 10 steps are 0 to 9"),
        (None, {"rewind_to": 5}, 6, "a round of 2 epochs with 2 of 1 after it has 4: set --trainer.max_epochs=4"),
    ],
)
def test_rounds_that_do_not_fit_are_a_mistake_before_training(
    method: ls.Method | None, options: dict[str, Any], max_epochs: int, part: str
) -> None:
    watch, pruning = Watch(), IterativePruning(**{"rounds": 2, "epochs_per_round": 2} | options)
    trainer = quiet_trainer(max_epochs=max_epochs, callbacks=[watch, pruning])
    with pytest.raises(ls.UserError, match=part):
        trainer.fit(module(method), datamodule=Digits(batch_size=288))
    assert not watch.before


@pytest.mark.thorough
def test_the_command_prunes_and_draws_accuracy_over_density(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--model.method=Magnitude", "--model.method.density=1.0", "--trainer.callbacks+=IterativePruning"]
    options += ["--trainer.callbacks.rounds=2", "--trainer.callbacks.epochs_per_round=1", "--trainer.accelerator=cpu"]
    short = ["--trainer.max_epochs=3", "--trainer.limit_train_batches=4", "--model.network.width_multiplier=0.25"]
    main(["fit", "-c", str(QUICKSTART), *options, *short, "--trainer.callbacks.rewind_to=2"])
    (folder,) = (tmp_path / "runs/quickstart").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["density"] == pytest.approx(0.64, abs=1e-3)
    assert {path.name for path in folder.glob("*.png")} == {"curves.png", "layers.png", "rounds.png", "widths.png"}
    metrics = drawing.read_metrics(folder / "metrics.csv")
    assert metrics["pruning/round"] == ([1, 2, 3], [0.0, 1.0, 2.0])
