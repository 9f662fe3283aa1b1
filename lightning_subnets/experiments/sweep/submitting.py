"""Submit the unfinished runs of a sweep to SLURM, as an array."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from lightning_subnets.errors import UserError, printable
from lightning_subnets.experiments.sweep import results, running, submissions
from lightning_subnets.experiments.sweep.plan import PlannedRun, Sweep
from lightning_subnets.experiments.sweep.submissions import Submission
from lightning_subnets.training.callbacks.last_checkpoint import REQUEUE

_NOTICE = 300  # seconds before the time limit at which a run is told to save itself
# sbatch prefers its variables to what a script says. These would undo what finds, stops and requeues a job.
_NOT_FROM_OUTSIDE = ("SBATCH_ARRAY_INX", "SBATCH_JOB_NAME", "SBATCH_NO_REQUEUE", "SBATCH_SIGNAL")
_OF_THE_CLUSTER = ("SLURM_CLUSTERS", "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # not of a job
# sbatch's words for a limit on the jobs of a user, an account or a QOS, and for one on the tasks of an array.
_TOO_MANY = re.compile(r"Submit\w*Limit|job submit limit|Invalid job array specification")


@dataclass(frozen=True)
class Resources:
    """The options of ``subnets sweep`` for the job of each run; sbatch reads all else from its own variables."""

    partition: str | None = None
    gpus: int = 1
    cpus: int | None = None
    time: str | None = None
    max_jobs: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("gpus", self.gpus, 0), ("cpus", self.cpus, 1), ("max_jobs", self.max_jobs, 1)):
            if value is not None and value < least:
                raise UserError(f"{name} = {value} is below {least}")
        if self.cpus is not None and self.cpus < self.gpus:
            raise UserError(f"cpus = {self.cpus} is below gpus = {self.gpus}: each GPU needs a CPU that feeds it")


class TooManyJobsError(UserError):
    """The cluster does not take so many jobs of a user, or in an array, at once."""


def to_slurm(sweep: Sweep, out: Path, runs: list[PlannedRun], wanted: Resources) -> Submission:
    """Submit an array with a task for each run, or for the first ones if the cluster does not take so many at once.

    Its jobs need nothing of this process.

    Raises:
        UserError: with the words of sbatch, if it refuses the array.
    """
    while True:
        try:
            return _submitted(sweep, out, runs, wanted)
        except TooManyJobsError:
            if len(runs) == 1:
                raise
            runs = runs[: len(runs) // 2]


def _submitted(sweep: Sweep, out: Path, runs: list[PlannedRun], wanted: Resources) -> Submission:
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if not shutil.which("srun"):
        raise UserError("sbatch is here, but srun is not: submit on a machine that has both")
    submission = submissions.new(sweep.name, "slurm", [run.name for run in runs])
    cpus = wanted.cpus or 12 * wanted.gpus or 4
    executor = SlurmExecutor(submissions.make_private_folder(submission))
    executor.update_parameters(
        job_name=submission.name,
        time=wanted.time or "08:00:00",
        nodes=1,
        ntasks_per_node=1,
        cpus_per_task=cpus,
        array_parallelism=wanted.max_jobs or len(runs),
        stderr_to_stdout=True,
        wckey=None,
        srun_args=[f"--cpus-per-task={cpus}", "--cpu-bind=none"],
        setup=_before(submission, out, threads=max(1, cpus // max(1, wanted.gpus))),
        teardown=_after(out, executor.folder),
        # submitit's own signal is USR2, at which it would requeue a job at most three times.
        additional_parameters={"signal": f"USR1@{_NOTICE}", "requeue": True}
        | ({"partition": wanted.partition} if wanted.partition else {})
        | ({"gpus-per-node": wanted.gpus} if wanted.gpus else {}),
    )
    _forget_variables(wanted)
    commands = [_command(run, out, wanted.gpus) for run in runs]
    with submissions.recorded(submission, out), _uninterrupted():
        try:
            with redirect_stderr(io.StringIO()):  # where submitit prints what its error says too
                jobs = executor.map_array(os.execvp, ["sh"] * len(runs), commands)
        except (FailedJobError, FailedSubmissionError) as error:
            said = " ".join(printable(line.removeprefix("sbatch: error: ")) for line in str(error).splitlines())
            kind = TooManyJobsError if _TOO_MANY.search(said) else UserError
            raise kind(f"sbatch refuses the runs: {said}") from error
        accepted = submission.model_copy(update={"job": jobs[0].job_id.partition("_")[0]})
        submissions.write(accepted, out)
    return accepted


def _forget_variables(wanted: Resources) -> None:
    """Remove variables that would change what is submitted, of sbatch and of the job that this process may be in."""
    chosen = {"SBATCH_PARTITION": wanted.partition, "SBATCH_TIMELIMIT": wanted.time}
    names = [*_NOT_FROM_OUTSIDE, *(name for name, value in chosen.items() if value)]
    if not os.environ.get("SBATCH_GPUS_PER_NODE", "").endswith(f":{wanted.gpus}"):
        names.append("SBATCH_GPUS_PER_NODE")  # it may add a kind of GPU, but a run has a process for each of its GPUs
    if "SLURM_JOB_ID" in os.environ:  # the new jobs would inherit them, and their srun would read them as options
        names += [name for name in os.environ if name.startswith("SLURM_") and name not in _OF_THE_CLUSTER]
    for name in names:
        os.environ.pop(name, None)


def _command(run: PlannedRun, out: Path, gpus: int) -> list[str]:
    """Return the command of a task of the array. It replaces submitit's process, so that SLURM signals the run itself.

    Lightning starts the processes for further GPUs, which it does only without SLURM's number of tasks.
    """
    fit = [sys.executable, "-m", "lightning_subnets", "fit", *running.arguments_of(run, out)]
    log = results.log_of(run.name, out)
    devices = [f"--trainer.devices={gpus}"] if gpus else []
    return ["sh", "-c", 'unset SLURM_NTASKS SLURM_PROCID; exec "$@" >> "$0" 2>&1', str(log), *fit, *devices]


def _before(submission: Submission, out: Path, threads: int) -> list[str]:
    """Return what the script of a job does before it starts the run."""
    return [
        f"runs=({shlex.join(submission.runs)})",
        "run=${runs[${SLURM_ARRAY_TASK_ID:-0}]}",
        f"rm -f {shlex.quote(str(out))}/runs/$run.failed",
        f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{threads}}}",
        "unset SLURM_EXPORT_ENV",  # with SBATCH_EXPORT=NONE, srun would not pass that number on
        # With a trap, Bash waits for the run to save itself. Only scancel and the time limit signal the script too.
        "stopped=",
        "trap 'stopped=yes' TERM",
    ]


def _after(out: Path, output: Path) -> list[str]:
    """Return what the script of a job does when the run has ended: it requeues itself, or writes down the reason.

    Bash's ``SECONDS`` is the time since the script began.
    Exit code 143 without a signal to the script is preemption with a grace period, after which SLURM would count the
    job as done.
    """
    record = shlex.join([sys.executable, "-m", "lightning_subnets.experiments.sweep.ending", str(out)])
    return [
        "code=$?",
        "task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
        f"if [[ $code = {REQUEUE} || ($code = 143 && ! $stopped) ]]; then",
        "    scontrol requeue ${task:-$SLURM_JOB_ID} && exit",
        "fi",
        f"[ $code = 0 ] || {record} $run $code $(($(date +%s) - SECONDS)) {shlex.quote(str(output))}",
        "exit $code",
    ]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and the end of the terminal.

    Processes that are started here inherit the mask of this thread. The handlers are there because a signal may reach
    another thread, which does not have this mask.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with running.collected(numbers) as received:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for late in received:
        signal.raise_signal(late)
