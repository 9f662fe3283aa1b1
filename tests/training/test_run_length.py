"""A killed and resumed run equals the uninterrupted one, however its length is given."""

from __future__ import annotations

import csv
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from small_runs import conv_module, quiet_trainer

from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import LastCheckpoint, MaskStatistics
from lightning_subnets.training.callbacks.last_checkpoint import Stopped
from lightning_subnets.training.lightning_internals import nothing_follows_this_batch
from lightning_subnets.training.loggers.metrics_file import MetricsFile

Options = dict[str, Any]


class Copies(LastCheckpoint):
    """Writes a checkpoint after each step, and copies the files that a kill would leave, at and within each epoch."""

    def __init__(self, run: Path) -> None:
        super().__init__(run / "checkpoints", minutes=0.0)
        self.run, self.copies = run, list[tuple[int, Path]]()

    @property
    def state_key(self) -> str:
        return LastCheckpoint.__qualname__

    def _write(self, trainer: Trainer) -> None:
        super()._write(trainer)
        # When an epoch ends, whatever ends it, and after its second step.
        if not nothing_follows_this_batch(trainer) or trainer.global_step % 5 == 2:
            to = self.run.with_name(f"{self.run.name}_{len(self.copies)}")
            shutil.copytree(self.run, to)
            self.copies.append((trainer.global_step, to))


def fit(run: Path, options: Options, *, last: LastCheckpoint | None = None) -> None:
    """Train, epochs of 5 steps, from the checkpoint that is there, and test."""
    torch.manual_seed(time.monotonic_ns())  # what another process would find
    module = conv_module(schedule=options.get("schedule", "cosine"))
    last = last or LastCheckpoint(run / "checkpoints")
    found = last.best_model_path or None
    settings = {key: value for key, value in options.items() if key not in ("schedule", "stop")}
    stop = [EarlyStopping("val/accuracy", mode="max", min_delta=2.0, patience=1)] if "stop" in options else []
    logger = MetricsFile(str(run), torch.load(found, weights_only=True)["global_step"] if found else None)
    callbacks = [*stop, MaskStatistics(), last]
    trainer = quiet_trainer(log_every_n_steps=2, logger=logger, callbacks=callbacks, **settings)
    trainer.fit(module, datamodule=Digits(batch_size=288), ckpt_path=found)
    trainer.test(module, datamodule=Digits(batch_size=288), verbose=False)
    (run / "ended").write_text(f"{trainer.current_epoch} epochs, {trainer.global_step} steps")


def rows(run: Path, without: str | tuple[()] = ()) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith(without)} for row in csv.DictReader(file)]


def assert_equal(run: Path, expected: Path, *, more_rows: int = 0, without: str | tuple[()] = ()) -> None:
    contents = [torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (run, expected)]
    states = [(content["state_dict"], content["optimizer_states"][0]["state"]) for content in contents]
    torch.testing.assert_close(*states, rtol=0.0, atol=0.0)
    found, wanted = rows(run, without), rows(expected, without)
    assert len(found) == len(wanted) + more_rows
    assert [row for row in found if row in wanted] == wanted
    assert (run / "ended").read_text() == (expected / "ended").read_text()


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": -1, "max_steps": 7}, 7),
        *(
            pytest.param(options, steps, marks=pytest.mark.thorough)
            for options, steps in [
                ({"max_epochs": 2}, 10),
                ({"max_epochs": -1, "max_steps": 10}, 10),
                ({"max_epochs": 3, "max_steps": 7}, 7),
                ({"max_epochs": 2, "max_steps": 99}, 10),
                ({"max_epochs": -1, "max_steps": 5, "accumulate_grad_batches": 2}, 5),
                ({"max_epochs": -1, "max_steps": 8, "val_check_interval": 2}, 8),
                ({"max_epochs": 2, "val_check_interval": 4, "check_val_every_n_epoch": None}, 10),
                # A callback ends these after the second validation that comes, for none is better than the first by 2.
                ({"max_epochs": 9, "stop": True}, 10),
                ({"max_epochs": 9, "stop": True, "val_check_interval": 2}, 4),
                ({"max_epochs": 9, "stop": True, "max_steps": 99}, 10),
                ({"max_epochs": 9, "stop": True, "min_epochs": 3}, 15),
            ]
        ),
    ],
    ids=str,
)
def test_a_run_killed_after_any_checkpoint_ends_as_the_uninterrupted_one(
    options: Options, steps: int, tmp_path: Path
) -> None:
    run, last = tmp_path / "run", Copies(tmp_path / "run")
    fit(run, options, last=last)
    assert last.copies[-1][0] == steps
    for _, copy in last.copies:
        fit(copy, options)
        assert_equal(copy, run)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"max_epochs": 2}, {"max_epochs": 3}),
        ({"max_epochs": 2}, {"max_epochs": -1, "max_steps": 13}),
        ({"max_epochs": -1, "max_steps": 7}, {"max_epochs": -1, "max_steps": 13}),
        ({"max_epochs": -1, "max_steps": 7}, {"max_epochs": 2}),
        ({"max_epochs": 2, "max_steps": 7, "val_check_interval": 2}, {"max_epochs": 2, "val_check_interval": 2}),
    ],
    ids=str,
)
def test_a_run_that_gets_longer_when_it_is_resumed_ends_as_one_that_was_always_as_long(
    before: Options, now: Options, tmp_path: Path
) -> None:
    expected, last = tmp_path / "expected", Copies(tmp_path / "run")
    fit(tmp_path / "run", before | {"schedule": "constant"}, last=last)
    fit(expected, now | {"schedule": "constant"})
    for step, copy in last.copies:
        fit(copy, now | {"schedule": "constant"})
        # The shorter run's end in the middle of an epoch is logged too, and its masks are then those of "an epoch ago".
        cut_short = step == before.get("max_steps")
        assert_equal(copy, expected, more_rows=cut_short, without="swapped/" if cut_short else ())


@pytest.mark.thorough
def test_a_time_limit_stops_each_call_and_the_same_call_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path / "expected", {"max_epochs": 2})
    run = tmp_path / "run"
    for step in range(1, 11):
        with pytest.raises(Stopped) as stopped:
            fit(run, {"max_epochs": 2, "max_time": timedelta(0)})
        assert stopped.value.code == 75
        assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step
    fit(run, {"max_epochs": 2, "max_time": timedelta(0)})
    assert_equal(run, tmp_path / "expected")
    said = capsys.readouterr().err
    assert f"stopped by trainer.max_time at step 3; to resume: lightning fit -c {run}/config.yaml --version run" in said
