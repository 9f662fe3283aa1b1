"""Training in rounds that is stopped at any step and resumed."""

from __future__ import annotations

import csv
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import quiet_trainer
from test_iterative_pruning import Watch, equal, module
from test_last_checkpoint import Do, at_step, send

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import IterativePruning, LastCheckpoint, MaskStatistics
from lightning_subnets.training.callbacks.last_checkpoint import Stopped
from lightning_subnets.training.loggers import MetricsFile


def run(folder: Path, rewind_to: int | None, *, stop: int = -1, batch_size: int = 288, rounds: int = 2) -> Watch:
    """Train a round and those after it, of an epoch each, from the checkpoint that is there, as the command does."""
    of = module()
    torch.manual_seed(time.monotonic_ns())  # what another process would find
    last, watch = LastCheckpoint(folder), Watch()
    content = torch.load(last.path, weights_only=True) if last.best_model_path else None
    pruning = IterativePruning(rounds, epochs_per_round=1, rewind_to=rewind_to)
    trainer = quiet_trainer(
        max_epochs=1 + rounds,
        logger=MetricsFile(str(folder), step=content["global_step"] if content else None),
        callbacks=[Do(at_step(stop, send(signal.SIGUSR1))), watch, MaskStatistics(), pruning, last],
    )
    trainer.fit(of, datamodule=Digits(batch_size=batch_size), ckpt_path=last.best_model_path or None)
    return watch


def ending(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The last checkpoint, without what was measured by a clock, and the rows of metrics.csv."""
    content = torch.load(folder / "last.ckpt", weights_only=True)
    with (folder / "metrics.csv").open(newline="") as file:
        return content, list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int | None], Path]:
    """The folder of the run that nobody stopped."""

    @cache
    def of(rewind_to: int | None) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        run(folder, rewind_to)
        return folder

    return of


@pytest.mark.parametrize(
    ("rewind_to", "stops"),
    [
        (3, [1, 5, 7, 10, 14]),
        *(pytest.param(3, [stop], marks=pytest.mark.thorough) for stop in (2, 3, 4, 6)),
        pytest.param(0, [3, 5, 10], marks=pytest.mark.thorough),
        pytest.param(None, [4, 10], marks=pytest.mark.thorough),
    ],
)
def test_a_run_that_is_stopped_anywhere_resumes_to_the_bit(
    rewind_to: int | None, stops: list[int], whole: Callable[[int | None], Path], tmp_path: Path
) -> None:
    for stop in stops:
        with pytest.raises(Stopped):
            run(tmp_path, rewind_to, stop=stop)
    run(tmp_path, rewind_to)
    (content, rows), (expected, expected_rows) = ending(tmp_path), ending(whole(rewind_to))
    for found in (content, expected):
        found["momenta"] = found["optimizer_states"][0]["state"]
        found |= found["callbacks"]
    for key in ("state_dict", "momenta", "MaskStatistics", "IterativePruning", "global_step"):
        torch.testing.assert_close(content[key], expected[key], rtol=0.0, atol=0.0)
    assert content["lr_schedulers"] == expected["lr_schedulers"]
    assert rows == expected_rows
    rounds = [(row["pruning/round"], float(row["density"])) for row in expected_rows if row["density"]]
    assert rounds == [("0.0", 1.0), ("1.0", pytest.approx(0.8, abs=1e-3)), ("2.0", pytest.approx(0.64, abs=1e-3))]


@pytest.mark.thorough
def test_a_finished_run_continues_with_more_rounds(tmp_path: Path) -> None:
    run(tmp_path, 3)
    watch = run(tmp_path, 3, rounds=3)
    assert list(watch.before) == [15, 16, 17, 18, 19]
    (content, _), kept = ending(tmp_path), 1476
    for _ in range(3):
        kept -= int(0.2 * kept)
    assert sum(int(watch.before[15].masks[name].sum()) for name in watch.before[15].masks) == kept
    assert content["callbacks"]["IterativePruning"]["pruned"] == 3


@pytest.mark.thorough
def test_after_a_resume_with_smaller_batches_the_rewind_is_to_the_same_share_of_the_round(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, 3, stop=2)
    watch = run(tmp_path, 3, batch_size=144)  # 10 steps an epoch instead of 5; 6 of the first are left
    rates = [watch.before[step].rate for step in sorted(watch.before)]
    assert len(rates) == 6 + 10 + 10
    # The first was at 4 of 10, so that the rewind is to 6; beyond 10 the rate is 0.
    assert rates[6:16] == rates[16:] == rates[2:6] + [0.0] * 6
    assert all(equal(watch.before[8].trained, watch.before[4].trained).values())


@pytest.mark.parametrize(("name", "before", "now"), [("rewind_to", 3, 2), ("epochs_per_round", 1, 2)])
def test_a_resumed_run_cannot_change_its_rounds(name: str, before: int, now: int) -> None:
    options: dict[str, Any] = {"rounds": 1, "epochs_per_round": 1}
    state = IterativePruning(**(options | {name: before})).state_dict()
    with pytest.raises(ls.UserError, match=f"{name} = {before} of IterativePruning, and this run has {name} = {now}"):
        IterativePruning(**(options | {name: now})).load_state_dict(state)


def test_a_run_without_rounds_cannot_be_resumed_with_rounds(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.ckpt"
    trainer = quiet_trainer(limit_val_batches=0, callbacks=[LastCheckpoint(tmp_path)])
    trainer.fit(module(), datamodule=Digits(batch_size=288))
    pruning = IterativePruning(rounds=2, epochs_per_round=1)
    trainer = quiet_trainer(max_epochs=3, callbacks=[pruning, LastCheckpoint(tmp_path)])
    with pytest.raises(ls.UserError, match="of a run without IterativePruning"):
        trainer.fit(module(), datamodule=Digits(batch_size=288), ckpt_path=checkpoint)
