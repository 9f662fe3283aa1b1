"""Many runs, several at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from lightning_subnets.errors import UserError
from lightning_subnets.experiments.sweep import results
from lightning_subnets.experiments.sweep.plan import PlannedRun, Sweep
from lightning_subnets.experiments.sweep.progress import SweepProgress
from lightning_subnets.experiments.sweep.results import Row
from lightning_subnets.run_files.run_directory import in_use, lock
from lightning_subnets.training.callbacks.last_checkpoint import REQUEUE

# What a run ends with that was stopped and can go on: by Ctrl-C, SIGTERM, or a signal ahead of a time limit.
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, REQUEUE)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
ALIKE = 3
Command = Callable[[list[str]], None]


def unfinished(sweep: Sweep, out: Path) -> list[PlannedRun]:
    """The runs that are still to be made, each once; those that have failed are among them."""
    runs = {run.name: run for run in sweep.runs()}
    return [run for run in runs.values() if not (results.directory_of(run.name, out) / "summary.json").is_file()]


def arguments_of(run: PlannedRun, out: Path) -> list[str]:
    """Those of ``lightning fit`` that put a run in its directory."""
    return [*run.arguments, f"--trainer.default_root_dir={out}", "--name=runs", f"--version={run.name}"]


@dataclass
class Slot:
    """A place where one run can be at a time.

    Args:
        device: the GPU, as CUDA_VISIBLE_DEVICES names it; "" for none.
        threads: of a CPU.
    """

    device: str
    threads: int


def slots(at_once: int | None, on_a_gpu: int) -> list[Slot]:
    """The places that this machine has: so many on each GPU, or on its processors where it has none.

    Args:
        at_once: where it is not None, what a person wants.
        on_a_gpu: else; where there is none, a run has a processor of its own.

    Raises:
        ValueError: if ``at_once`` is below 1.
    """
    processors = torch.get_num_threads()  # its own choice: as many as there are cores, or what OMP_NUM_THREADS says
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(index) for index in range(torch.cuda.device_count())]
    if devices and visible is not None:
        devices = visible.split(",")[: len(devices)]
    if at_once is None:
        at_once = on_a_gpu if devices else processors  # see benchmarks/packing.py
    if at_once < 1:
        raise UserError(f"at_once = {at_once} is below 1")
    total = at_once * max(1, len(devices))
    return [Slot(device, max(1, processors // total)) for _ in range(at_once) for device in devices or [""]]


def run_all(sweep: Sweep, out: Path, places: list[Slot], command: Command) -> list[Row]:
    """Make all runs that are not made yet, and keep the table up to date.

    A run that fails is written down and does not stop the rest; but where the first ``ALIKE`` fail for one reason, so
    would the others. A run that another sweep is making is left to it. A signal to end is handed on: each run stops
    with a checkpoint, from which the same command goes on later; a second one kills them.

    Args:
        command: ``lightning``, as a function of its arguments.

    Returns: the table.
    Raises:
        ValueError: if the results cannot be written, or another process writes them.
        SystemExit: with 128 + the signal's number, after the runs have stopped.
    """
    folder, waiting = results.folder_of(sweep, out), unfinished(sweep, out)
    rows = results.collect(sweep, out)
    results.write(sweep, rows, folder)
    done = len({run.name for run in sweep.runs()}) - len(waiting)
    under_way: dict[BaseProcess, tuple[PlannedRun, Slot]] = {}
    reasons: list[str | None] = []
    board = SweepProgress(sweep.name, done=done, total=done + len(waiting))
    with _alone(folder), board, _signals() as received, _ending(under_way):
        while under_way or (waiting and not received):
            while waiting and places and not received:
                run = waiting.pop(0)
                if in_use(results.directory_of(run.name, out)):
                    board.elsewhere(run)
                    continue
                slot = places.pop(0)
                under_way[_started(run, slot, out, command)] = run, slot
            board.show([run for run, _ in under_way.values()])
            wait([process.sentinel for process in under_way], timeout=0.5)
            if len(received) > board.signals:
                board.signal(received[0], second=board.signals > 0)
                for process in under_way:
                    process.terminate() if board.signals == 1 else process.kill()
            for process in [each for each in under_way if not each.is_alive()]:
                run, slot = under_way.pop(process)
                places.append(slot)
                reason = None if received else _failure(process, run, out)
                reasons.append(reason)
                if reason:
                    results.failure_of(run.name, out).write_text(reason + "\n")
                rows = results.collect(sweep, out)
                results.write(sweep, rows, folder)
                board.ended(run, next(row for row in rows if row["directory"] == run.name))
            if waiting and len(reasons) >= ALIKE and reasons[0] and len({*reasons}) == 1:
                board.give_up(ALIKE, len(waiting))
                waiting.clear()
    if received:
        sys.exit(128 + received[0])
    return rows


def _started(run: PlannedRun, slot: Slot, out: Path, command: Command) -> BaseProcess:
    """A process that makes a run.

    It is a fork of one that has imported everything, which starts at once, and which could not compute on a GPU; on a
    Mac the libraries of the system do not survive it.
    """
    context: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
    if not slot.device and platform.system() == "Linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([command.__module__])
    process: BaseProcess = context.Process(target=_fit, args=(run, slot, out, Path.cwd(), command))
    results.failure_of(run.name, out).unlink(missing_ok=True)
    # A signal to the whole group, of Ctrl-C for one, is for this process alone, which hands it on.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with _visible(slot.device):
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return process


def log_of(run: str, out: Path) -> Path:
    """The file that has what a run prints."""
    return out / "runs" / f"{run}.log"


def _fit(run: PlannedRun, slot: Slot, out: Path, directory: Path, command: Command) -> None:
    """A run, in a process of its own, that prints into a file."""
    os.setpgrp()
    os.chdir(directory)  # not where multiprocessing was imported
    log = os.open(log_of(run.name, out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(slot.threads)
    command(["fit", *arguments_of(run, out)])


def _end_with_parent() -> None:
    """A sweep that is killed leaves no runs behind, whose directories the next one would find in use."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _failure(process: BaseProcess, run: PlannedRun, out: Path) -> str | None:
    """Why a run has failed, in a line; None if it has not, was stopped, or is being made elsewhere."""
    process.join()
    directory, code = results.directory_of(run.name, out), process.exitcode
    if (directory / "summary.json").is_file() or code in STOPPED or in_use(directory):
        return None
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}" + (", perhaps for memory" if -code == signal.SIGKILL else "")
    log = log_of(run.name, out)
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    said = [line for line in lines if line.strip() and not line.startswith("tip:")]
    return said[-1].removeprefix("error: ") if said else f"exit code {code}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other sweeps of the same figure and scale out, and make room for the runs."""
    try:
        (folder.parent / "runs").mkdir(exist_ok=True)
        held = lock(folder)
    except BlockingIOError as error:
        raise UserError(f"another subnets sweep writes to {folder}: wait until it has ended") from error
    except OSError as error:
        raise UserError(f"no runs can be kept in {folder.parent}: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(held)


@contextmanager
def _visible(device: str) -> Iterator[None]:
    """The environment of a process that is to see one GPU."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        yield
    finally:
        if device:
            del os.environ["CUDA_VISIBLE_DEVICES"]
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals to end that have come, instead of their ending the process."""
    received: list[int] = []
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in SIGNALS]
    try:
        yield received
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _ending(processes: Mapping[BaseProcess, object]) -> Iterator[None]:
    """Stop what is under way where the sweep itself cannot go on, for a full disk for one."""
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
