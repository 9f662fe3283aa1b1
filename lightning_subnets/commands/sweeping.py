"""``subnets sweep``: make the runs of a figure, submit them, or show how far they are."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from lightning_subnets.commands import cli, failures
from lightning_subnets.errors import UnwritableError, printable
from lightning_subnets.experiments import report
from lightning_subnets.experiments.sweep import background, running, submissions, submitting
from lightning_subnets.experiments.sweep import status as states
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.run_files.shipped_configs import named_config


def make(figure: str, scale: str | None, out: Path, at_once: int | None = None, at_most: int | None = None) -> None:
    """Make the unfinished runs on this machine, at most so many at a time, and draw the figure."""
    planned = Sweep.read(named_config(figure, "figures"), scale)
    free = running.slots(at_once, planned.scale.at_once, at_most)
    rows = running.run_all(planned, out, free, cli.main)
    report.report(str(out / planned.name))
    if any(row["status"] != "finished" for row in rows):
        failures.end(f"not all runs are finished; their output is in {out / 'runs'}/<run>.log", code=1)


def submit(figure: str, scale: str | None, out: Path, options: dict[str, Any]) -> None:
    """Submit the runs that are neither done nor submitted, to SLURM or into the background of this machine."""
    planned, wanted = Sweep.read(named_config(figure, "figures"), scale), submitting.Resources(**options)
    named = [figure, "--scale", planned.scale_name, "--out", str(out)]
    shown = printable(shlex.join(["subnets", "sweep", *named, "--status"]))
    with submissions.alone(out):
        submissions.forget(out)
        before = states.states_of(planned, out)
        states.update_table(planned, out)
        runs = [state.run for state in before if state.name in states.UNSUBMITTED]
        print(states.counts(before))
        if not runs:
            print(f"nothing to submit; to look: {shown}")
        elif shutil.which("sbatch"):
            submission = submitting.to_slurm(planned, out, runs, wanted)
            number, left = submission.job, len(runs) - len(submission.runs)
            print(f"submitted {len(submission.runs)} as job {number}, which scancel {number} stops; to look: {shown}")
            if left:
                print(f"SLURM did not take all at once: later, the same command submits the other {left}")
        else:
            ignored = ", ".join(f"--{name}" for name in options if name != "max_jobs")
            print(
                "no SLURM here (there is no sbatch), so this machine makes the runs in the background"
                + (f", without {ignored}" if ignored else "")
            )
            program = (
                "from pathlib import Path; from lightning_subnets.commands.sweeping import make; "
                f"make({figure!r}, {planned.scale_name!r}, Path({str(out)!r}), at_most={wanted.max_jobs!r})"
            )
            process = background.to_background(planned, out, runs, [sys.executable, "-P", "-c", program])
            print(f"{len(runs)} runs in process {process}, which kill {process} stops; to look: {shown}")


def status(figure: str, scale: str | None, out: Path) -> None:
    """Show the state of each run, and draw what is done."""
    planned = Sweep.read(named_config(figure, "figures"), scale)
    found = states.states_of(planned, out)
    print(states.counts(found))
    if table := states.table(found):
        print(table)
    try:
        states.update_table(planned, out)
        report.report(str(out / planned.name))
    except UnwritableError as error:  # the runs of somebody else
        print(printable(f"nothing is drawn: {error.reason}"))
