"""Make the unfinished runs of a sweep in the background of this machine."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from lightning_subnets.errors import UserError
from lightning_subnets.experiments.sweep import submissions
from lightning_subnets.experiments.sweep.plan import PlannedRun, Sweep


def to_background(sweep: Sweep, out: Path, runs: list[PlannedRun], command: list[str]) -> int:
    """Start a command that makes the runs, without this terminal, and return the number of its process.

    Args:
        sweep: the sweep.
        out: the directory of the runs.
        runs: the unfinished runs.
        command: makes them. It writes its output into the log of the submission.
    """
    submission = submissions.new(sweep.name, "local", [run.name for run in runs])
    with submissions.recorded(submission, out):
        try:
            with submissions.log_of(submission, out).open("wb") as log:
                # In a session of its own, the process survives the end of the terminal.
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            raise UserError(
                f"no process can be started in the background ({error.strerror}): try again, or leave out --slurm to "
                "make the runs in this terminal"
            ) from error
        job = f"{process.pid} on {platform.node()}"
        submissions.write(submission.model_copy(update={"job": job}), out)
    return process.pid
