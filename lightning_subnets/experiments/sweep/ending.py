"""Write down why a job has ended without a result: ``python -m ...sweep.ending OUT RUN EXIT_CODE BEGAN OUTPUT``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from lightning_subnets.experiments.sweep import results
from lightning_subnets.experiments.sweep.running import STOPPED, why_failed


def record(out: Path, run: str, code: int, began: float, output: Path) -> None:
    """Write why a run has failed.

    Args:
        out: the directory of the runs.
        run: the name of the run.
        code: the exit code of a shell, 128 + N if the signal N killed the run.
        began: when the job began, in seconds since 1970. The job states it, because importing this may take long.
        output: the directory with the output of the job, which a run that has not begun may explain.
    """
    if code not in STOPPED and code - 128 in {*signal.Signals}:
        code = 128 - code
    if reason := why_failed(run, out, code, since=began - 1):
        if reason == f"exit code {code}":
            reason += f" before the run began; see the job's output in {output}"
        results.failure_of(run, out).write_text(reason + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5]))
