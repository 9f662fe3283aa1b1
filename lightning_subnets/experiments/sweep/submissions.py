"""Which runs have been submitted, by whom, and what SLURM says about them."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lightning_subnets import atomic_file
from lightning_subnets.errors import UserError, printable
from lightning_subnets.experiments.sweep import results
from lightning_subnets.training.schema import Strict, first_mistake

# A submission without a number is under way. After this time it was accepted, or will never be: sbatch has given up.
# A process in the background needs a part of it until it locks the directory of its sweep.
_UNDER_WAY = 60  # seconds
_FORGOTTEN = 86400  # seconds after which the file of a submission that SLURM does not know is removed
_PATIENCE = 60  # seconds to wait for another submission into the same folder
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_OVER = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}


class Submission(Strict):
    """Runs that were submitted together, as an array of SLURM or as a sweep in the background of one machine.

    The name is the name of the job, and unique. It is written into a file before the job is submitted, so SLURM can be
    asked for the job also if the process that submitted it was killed before it could write down the job's number.
    """

    # It ends as in ``new``, because ``forget`` removes the directory of this name: it must not be "..".
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.=+-]+-[0-9a-f]{8}$", max_length=100)]
    to: Literal["slurm", "local"]
    runs: list[str]  # in the order of the array's tasks
    by: str
    # The number of the job, or of a process and its machine, known once the submission is accepted.
    job: Annotated[str, Field(pattern=r"^[0-9]{1,9}( on .*)?$", max_length=300)] | None = None

    def under_way(self, written: float) -> bool:
        """Return whether the submission may have no effect yet, if it was written down at this time."""
        if time.time() - written > _UNDER_WAY:
            return False
        if self.job is None:
            return True
        if self.to == "slurm":
            return False  # squeue knows the job
        number, _, machine = self.job.partition(" on ")
        if machine != platform.node():
            return True  # its processes cannot be seen from here
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # of another user
            pass
        return True


@dataclass(frozen=True)
class Job:
    """What SLURM says about a task of an array."""

    number: str
    state: str
    elapsed: str
    reason: str
    by: str

    @property
    def over(self) -> bool:
        return self.state in _OVER

    @property
    def waiting(self) -> bool:
        return self.state in _WAITING


def new(sweep: str, to: Literal["slurm", "local"], runs: list[str]) -> Submission:
    """Return a submission with a new name."""
    readable = re.sub(r"[^A-Za-z0-9_.=+-]", "_", sweep)[:80]
    by = os.environ.get("USER") or str(os.getuid())
    return Submission(name=f"{readable}-{secrets.token_hex(4)}", to=to, runs=runs, by=by)


def file_of(submission: Submission, out: Path) -> Path:
    """Return the file of a submission. All sweeps of a directory share it, because they share runs."""
    return out / "submissions" / f"{submission.name}.json"


def log_of(submission: Submission, out: Path) -> Path:
    """Return the file with the output of a sweep in the background; that of an array is in its private folder."""
    return file_of(submission, out).with_suffix(".log")


def write(submission: Submission, out: Path) -> None:
    """Write the file of a submission."""
    atomic_file.write(file_of(submission, out), submission.model_dump_json() + "\n")


def alone(out: Path) -> AbstractContextManager[None]:
    """Lock a directory against other submissions, see ``results.locked``."""
    return results.locked(out / "submissions", patience=_PATIENCE)


def read(out: Path) -> list[tuple[Submission, float]]:
    """Return the submissions into a directory, the oldest first, each with the time at which it was written down.

    Raises:
        UserError: if the file of one is damaged.
    """
    found = []
    for path in (out / "submissions").glob("*.json"):
        try:
            written, text = path.stat().st_mtime, path.read_text()
            submission = Submission.model_validate(json.loads(text))
            if submission.name != path.stem:
                raise ValueError(f"its name is {submission.name!r}")
        except FileNotFoundError:  # another process has just removed it
            continue
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{path} is not a file of subnets sweep --slurm ({first_mistake(error)}): remove it"
            ) from error
        found.append((submission, written))
    return sorted(found, key=lambda each: each[1])


def jobs_of(names: list[str]) -> dict[str, dict[int, Job]]:
    """Ask SLURM for the jobs of submissions; return their tasks by the name of the submission and their number.

    Raises:
        UserError: if SLURM does not answer.
    """
    if not names:
        return {}
    command = ["squeue", "--noheader", "--array", "--states=all", f"--name={','.join(names)}"]
    # With SQUEUE_USERS, for instance, jobs of others would look as if they were over, and be submitted again.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        answer = subprocess.run(
            [*command, "--format=%j|%F|%K|%T|%M|%u|%r"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise UserError(
            f"squeue does not say what waits and runs ({printable(said.strip())}): try again, on a machine with SLURM"
        ) from error
    jobs: dict[str, dict[int, Job]] = {}
    for line in answer.stdout.splitlines():
        name, array, task, state, elapsed, user, reason = line.split("|", 6)
        number = f"{array}_{task}" if task.isdigit() else array
        job = Job(number, state, elapsed, "" if reason == "None" else reason, user)
        jobs.setdefault(name, {})[int(task) if task.isdigit() else 0] = job
    return jobs


def forget(out: Path) -> None:
    """Remove the files of old submissions that are over, and what this user's jobs have left."""
    old = [submission for submission, written in read(out) if time.time() - written > _FORGOTTEN]
    known = jobs_of([submission.name for submission in old if submission.to == "slurm"])
    for submission in old:
        finished = all(results.summary_of(run, out).is_file() for run in submission.runs)
        if finished or (submission.to == "slurm" and submission.name not in known):
            remove(submission, out)


def remove(submission: Submission, out: Path) -> None:
    """Remove the file of a submission, its log, and what its jobs read."""
    file_of(submission, out).unlink(missing_ok=True)
    log_of(submission, out).unlink(missing_ok=True)
    shutil.rmtree(private_folder(submission.name), ignore_errors=True)


def private_folder(name: str) -> Path:
    """Return the directory for what a job reads and nobody else may write, because Python unpickles it."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "lightning-subnets" / name


def make_private_folder(submission: Submission) -> Path:
    """Make and return the directory for what a job reads."""
    folder = private_folder(submission.name)
    before = os.umask(0o077)  # for the directories above it too: who can write them can replace it
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be created ({error.strerror}): set XDG_STATE_HOME to a directory that you can write to"
        ) from error
    finally:
        os.umask(before)
    return folder


@contextmanager
def recorded(submission: Submission, out: Path) -> Iterator[None]:
    """Write down a submission before it is made, and remove the file if it is refused."""
    write(submission, out)
    try:
        yield
    except UserError:
        if not _is_known(submission):
            remove(submission, out)
        raise


def _is_known(submission: Submission) -> bool:
    """Return whether SLURM has, or may have, jobs that sbatch failed to submit: it accepts some without an answer."""
    if submission.to == "local":
        return False
    try:
        return submission.name in jobs_of([submission.name])
    except UserError:
        return True
