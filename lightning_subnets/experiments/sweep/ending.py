"""Write down why a job has ended without a result: ``python -m ...sweep.ending OUT RUN EXIT_CODE``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from lightning_subnets.experiments.sweep import results
from lightning_subnets.experiments.sweep.running import STOPPED, why_failed


def record(out: Path, run: str, code: int) -> None:
    """Write why a run has failed, by the exit code of a shell: 128 + N if the signal N killed the run."""
    if code not in STOPPED and code - 128 in {*signal.Signals}:
        code = 128 - code
    if reason := why_failed(run, out, code):
        results.failure_of(run, out).write_text(reason + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
