"""The runs of a sweep, several at once, each in its own process."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from lightning_subnets.run_files.run_directory import in_use
from lightning_subnets.training.callbacks.last_checkpoint import REQUEUE
from lightning_subnets.training.csv_text import Row

# The exit codes of a run that can resume: it was stopped by Ctrl-C, by SIGTERM, or by a signal before a time limit.
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, REQUEUE)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 3  # seconds to wait for the directory of the results, which --status holds while it writes the table
SAME_FAILURES = 3  # no further runs are tried if this many runs, the first ones, fail for the same reason
Command = Callable[[list[str]], None]
_CAUSES = {
    signal.SIGKILL: ", perhaps for memory",
    signal.SIGUSR1: ", which came before training had begun: is the time limit too short?",
}


def unfinished(sweep: Sweep, out: Path) -> list[PlannedRun]:
    """Return the runs that are not finished, each once; failed runs are among them."""
    runs, finished = {run.name: run for run in sweep.runs()}, results.finished(sweep, out)
    return [run for run in runs.values() if run.name not in finished]


def arguments_of(run: PlannedRun, out: Path) -> list[str]:
    """Return the arguments of ``lightning fit`` that put a run in its directory."""
    return [*run.arguments, f"--trainer.default_root_dir={out}", "--name=runs", f"--version={run.name}"]


@dataclass
class Slot:
    """The share of the machine that one run uses at a time."""

    device: str  # the GPU, as in CUDA_VISIBLE_DEVICES; "" for none
    threads: int


def slots(at_once: int | None, on_a_gpu: int, at_most: int | None = None) -> list[Slot]:
    """Divide this machine into slots.

    Args:
        at_once: the number of runs at a time on each GPU, or on the CPU if there is no GPU.
        on_a_gpu: the number for a GPU if ``at_once`` is None; on the CPU there is then a run for each core.
        at_most: the largest number of slots; fewer slots have more cores each.
    """
    threads = torch.get_num_threads()  # torch's default: the number of cores, or OMP_NUM_THREADS
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(index) for index in range(torch.cuda.device_count())]
    if devices and visible is not None:
        devices = visible.split(",")[: len(devices)]
    if at_once is None:
        at_once = on_a_gpu if devices else threads  # see benchmarks/packing.py
    if at_once < 1:
        raise UserError(f"at_once = {at_once} is below 1: it is the number of runs at a time")
    chosen = [device for _ in range(at_once) for device in devices or [""]][:at_most]
    return [Slot(device, max(1, threads // len(chosen))) for device in chosen]


def run_all(sweep: Sweep, out: Path, free: list[Slot], command: Command) -> list[Row]:
    """Run all unfinished runs of a sweep, update its table after each, and return the rows of the table.

    A failed run is recorded and does not stop the others, unless the first ``SAME_FAILURES`` fail for the same reason.
    A run that another process is making is left to that process. SIGINT and SIGTERM are passed on: each run stops with
    a checkpoint, from which the same command resumes it. A second signal kills the runs.

    Args:
        sweep: the sweep to run.
        out: the directory for the runs and the results.
        free: the slots to run in.
        command: ``lightning``, as a function of its arguments.

    Raises:
        UserError: if the results cannot be written, or another process writes them.
        SystemExit: with 128 + the signal's number, after the runs have stopped.
    """
    waiting = unfinished(sweep, out)
    total = len({run.name for run in sweep.runs()})
    running: dict[BaseProcess, tuple[PlannedRun, Slot]] = {}
    reasons: list[str | None] = []
    handled = 0  # signals
    progress = SweepProgress(sweep.name, done=total - len(waiting), total=total)
    held = results.locked(out / sweep.name, patience=_PATIENCE)
    with held, progress, collected(SIGNALS) as received, _stopping(running):
        rows = results.write(sweep, out)
        while running or (waiting and not received):
            while waiting and free and not received:
                run = waiting.pop(0)
                if in_use(results.directory_of(run.name, out)):
                    progress.say(f"{run.label}: another process is making it")
                    continue
                slot = free.pop(0)
                running[_start(run, slot, out, command)] = run, slot
            progress.show([run for run, _ in running.values()])
            wait([process.sentinel for process in running], timeout=0.5)
            if len(received) > handled:
                handled += 1
                waits = "waiting for the runs to save checkpoints; a second signal kills them"
                progress.say(f"{signal.Signals(received[0]).name}: {waits if handled == 1 else 'the runs are killed'}")
                for process in running:
                    process.terminate() if handled == 1 else process.kill()
            for process in [each for each in running if not each.is_alive()]:
                run, slot = running.pop(process)
                free.append(slot)
                process.join()
                reasons.append(None if received else why_failed(run.name, out, process.exitcode))
                if reason := reasons[-1]:
                    results.failure_of(run.name, out).write_text(reason + "\n")
                rows = results.write(sweep, out)
                progress.ended(run, next(row for row in rows if row["directory"] == run.name))
            if waiting and len(reasons) >= SAME_FAILURES and reasons[0] and len({*reasons}) == 1:
                failed = f"the first {SAME_FAILURES} runs have failed for the same reason"
                progress.say(f"{failed}: the other {len(waiting)} are not tried")
                waiting.clear()
    if received:
        sys.exit(128 + received[0])
    return rows


def _start(run: PlannedRun, slot: Slot, out: Path, command: Command) -> BaseProcess:
    context: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
    # A fork of a process that has imported everything starts at once, but cannot use a GPU; macOS does not support it.
    if not slot.device and platform.system() == "Linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([command.__module__])
    process: BaseProcess = context.Process(target=_fit, args=(run, slot, out, Path.cwd(), command))
    results.failure_of(run.name, out).unlink(missing_ok=True)
    # Ctrl-C signals the whole process group; the new process blocks it, because this process passes it on.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        if slot.device:
            os.environ["CUDA_VISIBLE_DEVICES"] = slot.device  # for the new process; this one uses no GPU
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return process


def _fit(run: PlannedRun, slot: Slot, out: Path, directory: Path, command: Command) -> None:
    """Run one run in this process, with its output in its log."""
    os.setpgrp()
    os.chdir(directory)  # the fork server may have another working directory
    log = os.open(results.log_of(run.name, out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(slot.threads)
    command(["fit", *arguments_of(run, out)])


def _end_with_parent() -> None:
    """Stop this run if the sweep is killed; otherwise the next sweep would find the run's directory in use."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def why_failed(run: str, out: Path, code: int | None, since: float = 0.0) -> str | None:
    """Return one line on why a run has failed; None if it is finished, was stopped, or another process is making it.

    Args:
        run: the name of the run.
        out: the directory of the runs.
        code: the exit code of the process that made it, or -N if the signal N killed it.
        since: when that process began; what the log has from before is of another one.
    """
    if results.summary_of(run, out).is_file() or code in STOPPED or in_use(results.directory_of(run, out)):
        return None
    if code is not None and code < 0:
        number = signal.Signals(-code)
        return f"killed by {number.name}" + _CAUSES.get(number, "")
    return results.last_message(run, out, since) or f"exit code {code}"


@contextmanager
def collected(numbers: Sequence[signal.Signals]) -> Iterator[list[int]]:
    """Collect signals that would end this process."""
    received: list[int] = []
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _stopping(processes: Iterable[BaseProcess]) -> Iterator[None]:
    """Stop the processes that are still running when an error ends the sweep, such as a full disk."""
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
