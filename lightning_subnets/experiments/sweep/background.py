"""Make the unfinished runs of a sweep in the background of this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

from lightning_subnets.errors import UserError, printable
from lightning_subnets.experiments.sweep import submissions
from lightning_subnets.experiments.sweep.plan import PlannedRun, Sweep

_TEN_YEARS = 60 * 24 * 3650  # minutes; submitit ends a background process after two by default


def to_background(
    sweep: Sweep, out: Path, runs: list[PlannedRun], make: Callable[..., None], *arguments: object
) -> str:
    """Make the runs of a sweep in the background of this machine, and return the number of the process.

    Args:
        sweep: the sweep.
        out: the directory of the runs.
        runs: the unfinished runs.
        make: makes them, called in the background with ``arguments``.
        arguments: of ``make``.
    """
    from submitit import LocalExecutor

    submission = submissions.new(sweep.name, "local", [run.name for run in runs])
    folder = submissions.make_private_folder(submission)

    def start() -> str:
        executor = LocalExecutor(folder)
        executor.update_parameters(timeout_min=_TEN_YEARS, stderr_to_stdout=True)
        # The executor hides the GPUs that it is not asked for, so the function gets those that are visible here.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return executor.submit(_with_gpus, visible, make, *arguments).job_id

    with submissions.recorded(submission, out):
        number = _detached(start)
        job = f"{number} on {platform.node()}"
        submissions.write(submission.model_copy(update={"job": job}), out)
    return number


def _with_gpus(visible: str | None, make: Callable[..., None], *arguments: object) -> None:
    if visible is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    make(*arguments)


def _detached(start: Callable[[], str]) -> str:
    """Call a function in a process that has neither the terminal nor the session of this one, and return its answer.

    Processes that the function starts survive the end of the terminal, and no pipe of this process waits for them.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(nothing, stream)
            os.write(writing, start().encode())
            code = 0
        except Exception as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as answer:
        said = answer.read()
    if os.waitpid(process, 0)[1]:
        raise UserError(f"no process can be started in the background: {printable(said)}")
    return said
