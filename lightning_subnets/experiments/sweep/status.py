"""The state of each run of a sweep: what waits, runs, is done, has failed, and why."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lightning_subnets.errors import printable
from lightning_subnets.experiments.sweep import results, submissions
from lightning_subnets.experiments.sweep.plan import PlannedRun, Sweep
from lightning_subnets.experiments.sweep.submissions import Job, Submission
from lightning_subnets.run_files.drawing import read_metrics
from lightning_subnets.run_files.run_directory import in_use

Name = Literal["done", "running", "waiting", "failed", "stopped", "missing"]
UNSUBMITTED: tuple[Name, ...] = ("failed", "stopped", "missing")  # what the next submission makes
_ORDER: tuple[Name, ...] = ("failed", "stopped", "running", "waiting", "missing")  # of the table
_SHOWN = 20  # runs of each state in the table


@dataclass(frozen=True)
class State:
    """The state of a run, in words."""

    run: PlannedRun
    name: Name
    what: str = ""  # the reason, or how far the run is
    job: str = ""  # and its user


def states_of(sweep: Sweep, out: Path) -> list[State]:
    """Return the state of each run of a sweep.

    A finished run is known by its results, and a failed one by the file that says why. SLURM is asked only for jobs
    that have unfinished runs.

    Raises:
        UserError: if SLURM does not answer, or a file of a submission or of results is damaged.
    """
    runs = {run.name: run for run in sweep.runs()}
    unfinished = runs.keys() - results.finished(sweep, out)
    submitted = [(each, written) for each, written in submissions.read(out) if unfinished & {*each.runs}]
    jobs = submissions.jobs_of([each.name for each, _ in submitted if each.to == "slurm"])
    sweeping = in_use(out / sweep.name)
    finished = results.finished(sweep, out)  # meanwhile
    states = []
    for name, run in runs.items():
        if name in finished:
            states.append(State(run, "done"))
            continue
        mine = [(each, written) for each, written in submitted if name in each.runs]
        states.append(_state(run, mine, jobs, out, sweeping=sweeping))
    return states


def _state(
    run: PlannedRun,
    submitted: list[tuple[Submission, float]],
    jobs: dict[str, dict[int, Job]],
    out: Path,
    *,
    sweeping: bool,
) -> State:
    """Return the state of an unfinished run.

    Args:
        run: the run.
        submitted: its submissions, the oldest first, each with the time at which it was written down.
        jobs: the jobs of submissions.
        out: the directory of the runs.
        sweeping: whether a process on this machine makes the runs of the sweep.
    """
    ended, exited = "", True
    for submission, written in submitted:
        job = jobs.get(submission.name, {}).get(submission.runs.index(run.name))
        if job is None:
            if submission.job is None and submission.under_way(written):
                return State(run, "waiting", f"{submission.by} is submitting it")
            continue
        whose = f"job {job.number} of {job.by}"
        if job.waiting:
            return State(run, "waiting", job.reason, whose)
        if not job.over:
            return State(run, "running", f"{job.elapsed} {_progress(run, out)}".strip(), whose)
        reason = f" ({job.reason})" if job.reason else ""
        exited = job.state in ("COMPLETED", "FAILED")  # by itself, so its last words may say why
        ended = "" if job.state == "COMPLETED" else f"SLURM: {job.state}{reason}, {whose}"
    failure = results.failure_of(run.name, out)
    if in_use(results.directory_of(run.name, out)):
        return State(run, "running", _progress(run, out))
    if failure.is_file():
        return State(run, "failed", failure.read_text(errors="replace").strip())
    if sweeping or any(submission.under_way(written) for submission, written in submitted):
        return State(run, "waiting")
    if not submitted:
        return State(run, "missing")
    _, since = submitted[-1]
    said = results.last_message(run.name, out, since).partition("; to resume")[0]  # the same sweep resumes it
    return State(run, "stopped", "; ".join(filter(None, [said if exited else "", ended])))


def _progress(run: PlannedRun, out: Path) -> str:
    metrics = read_metrics(results.directory_of(run.name, out) / "metrics.csv")
    epoch = max((epochs[-1] for epochs, _ in metrics.values()), default=0)
    return f"epoch {epoch}" if epoch else ""


def counts(states: list[State]) -> str:
    """Return how many runs are in each state, as a line."""
    number = Counter(state.name for state in states)
    words = {"missing": "not submitted"}
    shown = [f"{number[name]} {words.get(name, name)}" for name in get_args(Name) if number[name]]
    return f"{len(states)} runs: {', '.join(shown)}"


def table(states: list[State]) -> str:
    """Return a table with a line for each run that is not done, at most ``_SHOWN`` in each state."""
    rows = []
    for name in _ORDER:
        here = [state for state in states if state.name == name]
        rows += [(name, state.run.label, "; ".join(filter(None, [state.what, state.job]))) for state in here[:_SHOWN]]
        if len(here) > _SHOWN:
            rows.append((name, f"... and {len(here) - _SHOWN} more", ""))
    width = max((len(label) for _, label, _ in rows), default=0)
    return "\n".join(printable(f"{name:8} {label:{width}}  {what}".rstrip()) for name, label, what in rows)


def update_table(sweep: Sweep, out: Path) -> None:
    """Write the results, unless a process that makes the runs of the sweep does that after each run."""
    with suppress(results.InUseError), results.locked(out / sweep.name, patience=0):
        results.write(sweep, out)
