"""A command whose failure has a known reason ends with one line, and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from repository import ROOT
from small_runs import conv_module, quiet_trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_subnets.commands import failures
from lightning_subnets.commands.failures import told_in_one_line

QUICKSTART = ROOT / "configs" / "quickstart.yaml"
OTHER = "{model: {network: {class_path: Conv2}}, data: {class_path: Digits}, seed_everything: 7}"  # another config


class Killed(Dataset[Tensor]):
    """A data set whose fourth image ends the worker that reads it."""

    def __init__(self, end: Callable[[], None]) -> None:
        self.end = end

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: int) -> Tensor:
        if key == 3:
            self.end()
        return torch.zeros(1)


def by(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


def exit_code(command: Callable[[], object]) -> object:
    """Return how a command ends, and drop its objects, because torch raises as long as a failed loader exists."""
    try:
        with told_in_one_line():
            command()
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (by(signal.SIGKILL), "is killed by signal: Killed (usually because memory ran out: give the job more"),
        (by(signal.SIGABRT), "is killed by signal: Aborted (its own messages are above;"),
        (by(signal.SIGBUS), "is killed by signal: Bus error (usually because /dev/shm is full: give it more room,"),
        (
            lambda: os._exit(3),
            "exited unexpectedly with exit code 3 (its own messages are above; with --data.num_workers=0",
        ),
    ],
    ids=["killed", "aborted", "bus error", "exited"],
)
def test_a_killed_worker_is_named(end: Callable[[], None], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: list(DataLoader(Killed(end), num_workers=2))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: DataLoader worker (pid ")
    assert why in line
    assert line.endswith("The same command with its --version resumes a fit from its last checkpoint")


def test_a_killed_worker_is_named_if_torch_raises_in_another_handler(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handled = failures._end_if_known

    def interrupted(error: Exception) -> None:
        monkeypatch.setattr(failures, "_end_if_known", handled)
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    def broken_off() -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(failures, "_end_if_known", interrupted)
    assert exit_code(broken_off) == 1
    assert capsys.readouterr().err.startswith("error: DataLoader worker (pid 7) is killed by signal: Killed")


def test_a_killed_worker_is_named_if_only_its_connection_breaks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read() -> None:
        batches = iter(DataLoader(Killed(by(signal.SIGKILL)), num_workers=1, prefetch_factor=8))
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the signal may come while nothing is raised for it
        try:
            batches._workers[0].join()  # type: ignore[attr-defined]
            list(batches)
        finally:
            batches._shutdown_workers()  # type: ignore[attr-defined]  # as a Trainer does
            signal.signal(signal.SIGCHLD, before)

    assert exit_code(read) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is killed by signal: Killed (usually because memory ran out: give the job more, or use fewer" in line


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EDQUOT, "written ({}): make room, or name another place"),
        (errno.EACCES, "read or written ({}): ask its owner, or name another place"),
    ],
)
def test_a_full_disk_or_a_directory_of_another_user_is_named(
    number: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "a.onnx")

    assert exit_code(fail) == 2
    assert capsys.readouterr().err == f"error: a.onnx cannot be {said.format(os.strerror(number))}\n"


def test_ctrl_c_outside_of_training_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: signal.raise_signal(signal.SIGINT)) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_ctrl_c_in_a_test_or_a_prediction_ends_in_the_same_line(capsys: pytest.CaptureFixture[str]) -> None:
    class CtrlC(Callback):
        def on_predict_batch_start(self, *_: object) -> None:
            signal.raise_signal(signal.SIGINT)

    images: Any = torch.rand(4, 1, 8, 8)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert exit_code(lambda: quiet_trainer(callbacks=[CtrlC()]).predict(conv_module(), DataLoader(images))) == 130
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores the signal from here on
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"
    assert exit_code(lambda: sys.exit(1)) == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "I/O error"), PermissionError(), RuntimeError("DataLoader"), ValueError("no")]
)
def test_another_error_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), told_in_one_line():
        raise error


def test_a_full_disk_before_training_is_a_mistake_with_one_line(
    mistake: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = tmp_path / "quickstart" / "run"
    arguments = ["fit", "-c", str(QUICKSTART), "--trainer.accelerator=cpu"]
    arguments += [f"--trainer.default_root_dir={tmp_path}", "--version=run"]
    monkeypatch.setattr("os.fsync", full)
    for there in ([], ["config.yaml"]):  # the config of a run that is resumed under another one is kept first
        for name in there:
            (run / name).write_text(OTHER)
        assert mistake(arguments) == (
            f"error: {run}/config.yaml cannot be written (No space left on device): free some space, or choose "
            "another disk with --trainer.default_root_dir\n"
        )
        assert [path.name for path in run.glob("*config*")] == there
