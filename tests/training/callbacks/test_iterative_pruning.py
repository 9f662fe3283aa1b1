"""Training in rounds: what is pruned, what is rewound, at which learning rates, and a stop at any place."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from repository import ROOT
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.commands.cli import main
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking import MaskedLayer
from lightning_subnets.run_files import drawing
from lightning_subnets.training.callbacks import IterativePruning, LastCheckpoint, MaskStatistics
from lightning_subnets.training.callbacks.last_checkpoint import Stopped
from lightning_subnets.training.checkpoint_files import CheckpointFiles
from lightning_subnets.training.loggers import MetricsFile
from lightning_subnets.training.module import SubnetModule
from lightning_subnets.training.schedule import Schedule, learning_rate_factor

STEPS = 5  # of an epoch
SILENT: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


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


def small() -> nn.Sequential:
    """With biases, batch norm and dropout; always the same."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(144, 10)
    )


def module(method: ls.Method | None = None, **options: Any) -> SubnetModule:
    defaults: dict[str, Any] = {
        "weights": "kaiming_normal",
        "optimizer": lambda trained: torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=1e-3),
        "warmup_epochs": 0.6,
    }
    return SubnetModule(small(), method or ls.Magnitude(1.0), **(defaults | options))


def fit(pruning: IterativePruning, of: SubnetModule | None = None, **arguments: Any) -> Watch:
    """Train, 5 batches an epoch, and say what there was at each step."""
    watch = Watch()
    later = pruning.epochs_per_round - (pruning.rewind_to or 0) // STEPS
    options = {"max_epochs": pruning.epochs_per_round + pruning.rounds * later, "limit_val_batches": 0}
    options |= SILENT | {"logger": False, "enable_checkpointing": False}
    Trainer(**(options | arguments), callbacks=[watch, pruning]).fit(of or module(), datamodule=Digits(batch_size=288))
    return watch


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, bool]:
    return {name: torch.equal(one[name], other[name]) for name in one}


@pytest.mark.parametrize("rewind_to", [0, 1, 3, 5, 7])
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


def test_without_a_rewind_the_weights_go_on_as_they_are_without_momenta() -> None:
    watch = fit(IterativePruning(rounds=2, epochs_per_round=1, rewind_to=None))
    for start in (5, 10):
        now, then = watch.before[start], watch.after[start]
        assert all(equal(now.trained, then.trained).values())
        assert not all(equal(now.masks, then.masks).values())
        assert (len(then.optimizer), len(now.optimizer)) == (6, 0)


def test_adam_counts_its_steps_anew_in_each_round() -> None:
    watch = fit(IterativePruning(rounds=1, epochs_per_round=1), module(optimizer=torch.optim.Adam))
    assert [int(watch.after[step].optimizer[0]["step"]) for step in range(1, 11)] == [1, 2, 3, 4, 5] * 2


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"fraction": 0.3}, {"0.scores 5.scores": 0.3}),
        ({"fraction": 0.3, "scope": "layer"}, {"0.scores": 0.3, "5.scores": 0.3}),
        (
            {"fraction": 0.3, "scope": "layer", "fractions": {"[0-3]": 0.15, "*": 0.1}},
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


def tiny() -> tuple[nn.Module, MaskedLayer, MaskedLayer]:
    """A first layer of weights 1 -2 0.5 | 0.25 -4 3 and a second of 0.1 -0.5."""
    network = ls.mask_(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), ls.Magnitude(1.0), weights=None)
    (_, first), (_, second) = ls.masked_layers(network)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.25, -4.0, 3.0]]))
        second.weight.copy_(torch.tensor([[0.1, -0.5]]))
    return network, first, second


def test_the_smallest_of_all_that_are_left_go() -> None:
    network, first, second = tiny()
    pruning = IterativePruning(rounds=3, epochs_per_round=1, fraction=0.4)
    pruning.prune_(network)  # 8 - int(0.4 * 8) = 5: of the two 0.5 the first stays
    assert first.mask().tolist() == [[True, True, True], [False, True, True]]
    assert second.mask().tolist() == [[False, False]]
    with torch.no_grad():
        first.weight[1, 0] = 9.0  # pruned, and large: it stays out
    pruning.prune_(network)  # 5 - int(0.4 * 5) = 3
    assert first.mask().tolist() == [[False, True, False], [False, True, True]]
    # 3 - int(0.4 * 3) = 2
    pruning.prune_(network)
    assert first.mask().tolist() == [[False, False, False], [False, True, True]]


def test_the_smallest_of_each_layer_that_are_left_go() -> None:
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


def test_a_weight_that_was_made_before_is_made_anew() -> None:
    network, first, _ = tiny()
    ones = torch.ones(3)
    assert torch.equal(first(ones) - first.bias, torch.tensor([-0.5, -0.75]))
    IterativePruning(rounds=1, epochs_per_round=1, fraction=0.5, scope="layer").prune_(network)
    assert torch.equal(first(ones) - first.bias, torch.tensor([-2.0, -1.0]))


@pytest.mark.parametrize(
    ("rewind_to", "schedule", "length"),
    [(None, "cosine", 10), (0, "cosine", 10), (3, "cosine", 10), (5, "cosine", 5), (7, "constant", 5)],
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


class Stop(Callback):
    """Interrupts after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGUSR1)


def run(folder: Path, rewind_to: int | None, *, stop: int = -1, batch_size: int = 288, rounds: int = 2) -> Watch:
    """Train a round and those after it, of an epoch each, from the checkpoint that is there, as the command does."""
    of = module()
    torch.manual_seed(time.monotonic_ns())  # what another process would find
    last, watch = LastCheckpoint(folder), Watch()
    content = torch.load(last.path, weights_only=True) if last.best_model_path else None
    pruning = IterativePruning(rounds, epochs_per_round=1, rewind_to=rewind_to)
    trainer = Trainer(
        **SILENT,
        max_epochs=1 + rounds,
        logger=MetricsFile(str(folder), step=content["global_step"] if content else None),
        callbacks=[Stop(stop), watch, MaskStatistics(), pruning, last],
    )
    trainer.strategy.checkpoint_io = CheckpointFiles()
    trainer.fit(of, datamodule=Digits(batch_size=batch_size), ckpt_path=last.best_model_path or None)
    return watch


def ending(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The last checkpoint, without what was measured by a clock, and the rows of metrics.csv."""
    content = torch.load(folder / "last.ckpt", weights_only=True)
    with (folder / "metrics.csv").open(newline="") as file:
        return content, list(csv.DictReader(file))


def assert_same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in other:
            if key != "seconds":
                assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(other, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}.{index}")
    elif isinstance(other, Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int | None], Path]:
    """The folder of the run that nobody stopped."""
    known: dict[int | None, Path] = {}

    def of(rewind_to: int | None) -> Path:
        if rewind_to not in known:
            known[rewind_to] = tmp_path_factory.mktemp("whole")
            run(known[rewind_to], rewind_to)
        return known[rewind_to]

    return of


@pytest.mark.parametrize(
    ("rewind_to", "stops"),
    [(3, [2]), (3, [3]), (3, [4]), (3, [5]), (3, [6]), (3, [1, 5, 7, 10, 14]), (0, [3, 5, 10]), (None, [4, 10])],
)
def test_a_run_that_is_stopped_anywhere_goes_on_to_the_bit(
    rewind_to: int | None, stops: list[int], whole: Callable[[int | None], Path], tmp_path: Path
) -> None:
    for stop in stops:
        with pytest.raises(Stopped):
            run(tmp_path, rewind_to, stop=stop)
    run(tmp_path, rewind_to)
    (content, rows), (expected, expected_rows) = ending(tmp_path), ending(whole(rewind_to))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_same(content[key], expected[key], key)
    for name in ("IterativePruning", "MaskStatistics"):
        assert_same(content["callbacks"][name], expected["callbacks"][name], name)
    assert rows == expected_rows
    rounds = [(row["pruning/round"], float(row["density"])) for row in expected_rows if row["density"]]
    assert rounds == [("0.0", 1.0), ("1.0", pytest.approx(0.8, abs=1e-3)), ("2.0", pytest.approx(0.64, abs=1e-3))]


def test_the_checkpoint_of_a_rounds_end_holds_what_was_trained_under_the_mask_it_was_trained_under(
    tmp_path: Path,
) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, 0, stop=10)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    kept = sum(int(tensor.sum()) for name, tensor in state.items() if name.endswith("scores"))
    assert kept == 1476 - int(0.2 * 1476)


def test_a_finished_run_goes_on_with_more_rounds(tmp_path: Path) -> None:
    run(tmp_path, 3)
    watch = run(tmp_path, 3, rounds=3)
    assert list(watch.before) == [15, 16, 17, 18, 19]
    (content, _), kept = ending(tmp_path), 1476
    for _ in range(3):
        kept -= int(0.2 * kept)
    assert sum(int(watch.before[15].masks[name].sum()) for name in watch.before[15].masks) == kept
    assert content["callbacks"]["IterativePruning"]["pruned"] == 3


def test_gone_on_with_in_smaller_batches_the_rewind_is_to_the_same_share_of_the_round(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, 3, stop=2)
    watch = run(tmp_path, 3, batch_size=144)  # 10 steps an epoch instead of 5; 6 of the first are left
    rates = [watch.before[step].rate for step in sorted(watch.before)]
    assert len(rates) == 6 + 10 + 10
    # The first was at 4 of 10, so that the rewind is to 6; beyond 10 the rate is 0.
    assert rates[6:16] == rates[16:] == rates[2:6] + [0.0] * 6
    assert all(equal(watch.before[8].trained, watch.before[4].trained).values())


@pytest.mark.parametrize(
    ("before", "change", "parts"),
    [
        (3, {"rewind_to": 2}, ["rewind_to = 3", "rewind_to = 2"]),
        (0, {"epochs_per_round": 2}, ["epochs_per_round = 1", "epochs_per_round = 2"]),
    ],
)
def test_rounds_that_have_begun_cannot_be_made_others(before: int, change: dict[str, Any], parts: list[str]) -> None:
    options: dict[str, Any] = {"rounds": 1, "epochs_per_round": 1, "rewind_to": before}
    state = IterativePruning(**options).state_dict()
    with pytest.raises(ls.UserError) as error:
        IterativePruning(**(options | change)).load_state_dict(state)
    assert all(part in str(error.value) for part in parts)


def test_a_run_that_was_begun_without_rounds_cannot_go_on_in_rounds(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.ckpt"
    trainer = Trainer(**SILENT, max_epochs=1, limit_val_batches=0, logger=False, callbacks=[LastCheckpoint(tmp_path)])
    trainer.fit(module(), datamodule=Digits(batch_size=288))
    pruning = IterativePruning(rounds=2, epochs_per_round=1)
    trainer = Trainer(**SILENT, max_epochs=3, logger=False, callbacks=[pruning, LastCheckpoint(tmp_path)])
    trainer.strategy.checkpoint_io = CheckpointFiles()
    with pytest.raises(ls.UserError, match="of a run without IterativePruning"):
        trainer.fit(module(), datamodule=Digits(batch_size=288), ckpt_path=checkpoint)


QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
PRUNING = [
    "--model.method=Magnitude",
    "--model.method.density=1.0",
    "--trainer.callbacks+=IterativePruning",
    "--trainer.callbacks.rounds=2",
    "--trainer.callbacks.epochs_per_round=1",
]
COMMAND = ["fit", "-c", QUICKSTART, "--trainer.accelerator=cpu", *PRUNING]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--model.method=EdgePopup"], ["EdgePopup", "--model.method=Magnitude --model.method.density=1.0"]),
        (["--model.method=Dense"], ["Dense has no mask"]),
        ([], ["max_epochs = 30", "--trainer.max_epochs=3"]),
        (["--trainer.callbacks.fraction=1"], ["fraction = 1.0", "(0, 1)"]),
        (["--trainer.callbacks.rounds=0"], ["rounds = 0", "below 1"]),
        (["--trainer.callbacks.epochs_per_round=0"], ["epochs_per_round = 0", "below 1"]),
        (["--trainer.callbacks.rewind_to=-1"], ["rewind_to = -1", "null is no rewind"]),
        (["--trainer.callbacks.scope=leyer"], ["leyer"]),
        (["--trainer.callbacks.fractions={classifier.5: 0.1}"], ["set scope to layer"]),
        (
            ["--trainer.callbacks.fractions={clasifier.5: 0.1}", "--trainer.callbacks.scope=layer"],
            ["'clasifier.5'", "Did you mean 'classifier.5'", "features.0"],
        ),
        (["--trainer.callbacks.fractions={a: 1.0}", "--trainer.callbacks.scope=layer"], ["1.0 of 'a'", "[0, 1)"]),
    ],
)
def test_a_mistake_is_one_clear_line_and_costs_nothing(
    arguments: list[str],
    parts: list[str],
    mistake: Callable[[list[str]], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    error = mistake([*COMMAND, *arguments])
    assert all(part in error for part in parts), error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rewind_to", "max_epochs", "part"),
    [
        (10, 6, "its 10 steps are 0 to 9"),
        (5, 6, "a round of 2 epochs and 2 of 1 after it are 4: set --trainer.max_epochs=4"),
    ],
)
def test_a_step_beyond_the_first_round_or_other_epochs_after_it_are_a_mistake_before_training(
    rewind_to: int, max_epochs: int, part: str
) -> None:
    watch, pruning = Watch(), IterativePruning(rounds=2, epochs_per_round=2, rewind_to=rewind_to)
    trainer = Trainer(
        **SILENT, max_epochs=max_epochs, callbacks=[watch, pruning], logger=False, enable_checkpointing=False
    )
    with pytest.raises(ls.UserError, match=part):
        trainer.fit(module(), datamodule=Digits(batch_size=288))
    assert not watch.before


def test_the_command_prunes_and_draws_accuracy_over_density(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_epochs=3", "--trainer.limit_train_batches=4", "--model.network.width_multiplier=0.25"]
    main([*COMMAND, *short, "--trainer.callbacks.rewind_to=2"])
    (folder,) = (tmp_path / "runs/quickstart").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["density"] == pytest.approx(0.64, abs=1e-3)
    assert {path.name for path in folder.glob("*.png")} == {"curves.png", "layers.png", "rounds.png", "widths.png"}
    metrics = drawing.read_metrics(folder / "metrics.csv")
    assert metrics["pruning/round"] == ([1, 2, 3], [0.0, 1.0, 2.0])
