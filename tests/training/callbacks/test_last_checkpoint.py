"""A stopped run resumes to the bit: after any step, in validation, with accumulation."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from small_runs import conv_module, quiet_trainer

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import LastCheckpoint, MaskStatistics, last_checkpoint
from lightning_subnets.training.callbacks.last_checkpoint import SIGNALS, Stopped
from lightning_subnets.training.loggers import MetricsFile

Hooks = dict[str, Callable[[Trainer], object]]


class Do(Callback):
    """Calls a function in a hook."""

    def __init__(self, hooks: Hooks) -> None:
        for name, function in hooks.items():
            setattr(self, name, lambda trainer, *_, function=function, **__: function(trainer))


def at_step(step: int, what: Callable[[], object]) -> Hooks:
    """Return a hook that acts after a number of optimizer steps."""
    return {"on_train_batch_end": lambda trainer: what() if trainer.global_step == step else None}


def send(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


def run(
    folder: Path, *, hooks: Hooks | None = None, minutes: float | None = 1000.0, **arguments: Any
) -> dict[str, Any]:
    """Train two epochs of 5 steps with batch norm and dropout, from the checkpoint that is there, and read the last."""
    torch.manual_seed(time.monotonic_ns())  # what another process would find
    module = conv_module(warmup_epochs=1)
    last = LastCheckpoint(folder) if minutes is None else LastCheckpoint(folder, minutes)
    callbacks = [MaskStatistics(), Do(hooks or {}), last]
    trainer = quiet_trainer(callbacks=callbacks, default_root_dir=folder, **{"max_epochs": 2} | arguments)
    trainer.fit(module, datamodule=Digits(batch_size=288), ckpt_path=last.best_model_path or None)
    content: dict[str, Any] = torch.load(last.path, weights_only=True)
    content["metrics"] = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return content


def assert_equal(content: dict[str, Any], expected: dict[str, Any]) -> None:
    for found in (content, expected):
        found["momenta"] = found["optimizer_states"][0]["state"]
    for key in ("state_dict", "momenta", "metrics"):
        torch.testing.assert_close(content[key], expected[key], rtol=0.0, atol=0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """The end of the uninterrupted run."""
    return cache(lambda **arguments: run(tmp_path_factory.mktemp("whole"), **arguments))


@pytest.mark.parametrize(
    "step", [2, 5, *(pytest.param(step, marks=pytest.mark.thorough) for step in (1, 3, 4, 6, 7, 8, 9))]
)
def test_a_run_stopped_after_any_step_ends_as_the_uninterrupted_one(
    step: int, whole: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    handlers = [signal.getsignal(signum) for signum in SIGNALS]
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, hooks=at_step(step, send(signal.SIGUSR1)))
    assert stopped.value.code == 75
    assert [signal.getsignal(signum) for signum in SIGNALS] == handlers
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step
    assert_equal(run(tmp_path), whole())
    assert [signal.getsignal(signum) for signum in SIGNALS] == handlers


@pytest.mark.thorough
@pytest.mark.parametrize("step", [2, 3, 5, 6])
@pytest.mark.parametrize(
    "arguments", [{"accumulate_grad_batches": 2}, {"val_check_interval": 2}, {"check_val_every_n_epoch": 2}], ids=str
)
def test_a_stopped_run_that_accumulates_or_validates_at_other_times_ends_as_the_uninterrupted_one(
    step: int, arguments: dict[str, Any], whole: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    sent, validated = iter([send(signal.SIGUSR1)]), list[int]()

    def after(trainer: Trainer) -> None:
        if trainer.fit_loop.total_batch_idx + 1 >= step:
            next(sent, lambda: None)()

    def validation(trainer: Trainer) -> None:
        if not trainer.sanity_checking:
            validated.append(trainer.fit_loop.total_batch_idx + 1)

    with pytest.raises(Stopped):
        run(tmp_path, hooks={"on_train_batch_end": after, "on_validation_end": validation}, **arguments)
    assert_equal(run(tmp_path, hooks={"on_validation_end": validation}, **arguments), whole(**arguments))
    every = {"val_check_interval": [2, 4, 7, 9], "check_val_every_n_epoch": [10]}
    assert validated == every.get(next(iter(arguments)), [5, 10])


def test_the_command_that_resumes_a_run_is_quoted_for_a_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "my runs" / "first try"
    with pytest.raises(Stopped):
        run(directory / "checkpoints", hooks=at_step(1, send(signal.SIGUSR1)))
    command = capsys.readouterr().err.partition("to resume: ")[2]
    config = str(directory / "config.yaml")
    assert shlex.split(command) == ["lightning", "fit", "-c", config, "--version", "first try"]


def test_a_signal_in_validation_waits_for_its_end(whole: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    sent = iter([send(signal.SIGTERM)])

    def halfway(trainer: Trainer) -> None:
        if not trainer.sanity_checking:
            next(sent, lambda: None)()

    with pytest.raises(Stopped) as stopped:
        run(tmp_path, hooks={"on_validation_batch_start": halfway})
    assert stopped.value.code == 143
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5
    assert_equal(run(tmp_path), whole())


@pytest.mark.parametrize(
    ("minutes", "seconds", "expected"),
    [
        (0.0, 60, list(range(10))),
        (1.5, 60, [0, 0, 2, 2, 4, 5, 5, 7, 7, 9]),
        (None, 199, [0, 0, 0, 0, 4, 5, 5, 5, 5, 9]),
        (None, 201, [0, 0, 0, 3, 3, 5, 5, 5, 8, 8]),
        (1000.0, 60, [0] * 5 + [5] * 5),
    ],
    ids=["due", "due every second step", "default, 9.95 minutes", "default, 10.05 minutes", "not due"],
)
def test_a_checkpoint_is_written_after_each_epoch_and_when_it_is_due(
    minutes: float | None, seconds: int, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []

    def look(trainer: Trainer) -> None:
        path = tmp_path / "last.ckpt"
        found.append(torch.load(path, weights_only=True)["global_step"] if path.exists() else 0)

    clock = SimpleNamespace(monotonic=lambda: float(seconds * len(found)))  # a step takes so long
    monkeypatch.setattr(last_checkpoint, "time", clock)
    content = run(tmp_path, hooks={"on_train_batch_start": look}, minutes=minutes)
    assert found == expected
    (state,) = (value for key, value in content["callbacks"].items() if "LastCheckpoint" in key)
    assert state["seconds"] == 10 * seconds


def test_with_shorter_epochs_the_rate_continues_at_the_same_share_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, hooks=at_step(4, send(signal.SIGUSR1)), max_epochs=4)
    steps: list[int] = []
    counted: Hooks = {
        "on_train_batch_end": lambda trainer: steps.append(trainer.lr_scheduler_configs[0].scheduler.last_epoch)
    }
    content = run(tmp_path, hooks=counted, max_epochs=4, limit_train_batches=3)
    assert steps == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert content["global_step"] == 4 + 1 + 3 * 3
    assert "resuming at step 4 with 1 x 288 images a step, 3 batches an epoch, instead of" in capsys.readouterr().err


def test_rows_are_on_the_disk_before_the_checkpoint_that_relies_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: dict[int, int] = {}
    found: list[tuple[int | None, int]] = []
    replace = Path.replace

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        on_disk[status.st_ino] = status.st_size

    def look(path: Path, target: Path) -> Path:
        if target.name == "last.ckpt":
            rows = (tmp_path / "metrics.csv").stat()
            found.append((on_disk.get(rows.st_ino), rows.st_size))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", look)
    run(tmp_path, minutes=0.0, logger=MetricsFile(str(tmp_path)))
    assert len(found) == 10
    assert [size for size, _ in found] == [size for _, size in found]


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run(tmp_path, hooks=at_step(2, send(signal.SIGINT)))["global_step"] == 10
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("signals", [(signal.SIGUSR1, signal.SIGTERM), (signal.SIGTERM, signal.SIGUSR1)])
def test_a_run_that_is_cancelled_at_its_time_limit_is_not_started_again(signals: list[int], tmp_path: Path) -> None:
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, hooks=at_step(2, lambda: [send(signum)() for signum in signals]))
    assert stopped.value.code == 143


def test_a_second_interrupt_ends_the_run_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def twice() -> None:
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    with pytest.raises(SystemExit) as exit_info:
        run(tmp_path, hooks=at_step(2, twice))
    assert not isinstance(exit_info.value, Stopped)
    assert not (tmp_path / "last.ckpt").exists()
    assert "to resume" not in capsys.readouterr().err


def test_a_disk_without_room_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 20_000}))
    with pytest.raises(ls.UserError, match=r"2e-05 GB left.*3.5e-05 GB.*default_root_dir"):
        LastCheckpoint(tmp_path / "checkpoints").check_room(conv_module())


def test_the_seconds_of_training_are_those_of_all_its_parts(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, hooks=at_step(7, send(signal.SIGUSR1)) | {"on_train_epoch_start": lambda _: time.sleep(0.3)})
    (state,) = (v for k, v in run(tmp_path)["callbacks"].items() if "LastCheckpoint" in k)
    assert 0.6 < state["seconds"] < 30


@pytest.mark.parametrize(
    ("hooks", "limit"),
    [(at_step(1, send(signal.SIGUSR1)), {}), ({}, {"max_time": {"seconds": 1}})],
    ids=["signal", "max_time"],
)
def test_what_has_stopped_a_run_does_not_stop_the_next_one_with_the_same_callback(
    hooks: Hooks, limit: dict[str, Any], tmp_path: Path
) -> None:
    last = LastCheckpoint(tmp_path)

    def fit(hooks: Hooks, **arguments: Any) -> int:
        trainer = quiet_trainer(callbacks=[Do(hooks), last], **arguments)
        trainer.fit(conv_module(), datamodule=Digits(batch_size=288))
        return trainer.global_step

    with pytest.raises(Stopped):
        fit({"on_train_batch_start": lambda _: time.sleep(0.5)} | hooks, **limit)
    start = time.monotonic()
    assert fit({}) == 5
    assert 0 < last.seconds < time.monotonic() - start
