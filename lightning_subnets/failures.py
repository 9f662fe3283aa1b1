"""How a command ends that cannot do what it was asked for: with one line for people and an exit code."""

from __future__ import annotations

import errno
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch.utils.data import dataloader

from lightning_subnets import streams
from lightning_subnets.agreement import lost_rank
from lightning_subnets.errors import UserError, printable

# Of a disk, of a person's share of it, of what one file may take.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORKER = re.compile(
    r"DataLoader worker \(pid (\d+)\) (is killed by signal: [^.]+|exited unexpectedly with exit code \d+)"
)


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """End the process with one line on standard error instead of a traceback, where the reason is known.

    Exit code 2 is for what a person can mend and 1 for the loss of another process. Messages cannot raise meanwhile,
    see ``streams``.
    """
    streams.make_lossy()
    try:
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            _end_if_known(error)
            raise
    except RuntimeError as error:  # torch's handler of SIGCHLD raises one anywhere, also where another error is handled
        _end_if_known(error)
        raise
    except UserError as error:
        # An error from a worker process brings that process's traceback before its message.
        end(printable(str(error).rsplit("UserError: ", 1)[-1].strip()))
    except MisconfigurationException as error:
        end(str(error))


def _end_if_known(error: Exception) -> None:
    """End the process with one line if the reason of an error is a full disk or another process that is gone."""
    if isinstance(error, OSError) and error.errno in _FULL:
        where = error.filename or "a file"
        end(f"{where} cannot be written ({error.strerror}): make room, or name another place")
    if lost := _lost_rank(error) or _lost_worker(error):
        end(f"{lost}. The same command with its --version resumes a fit from its last checkpoint", code=1)


def end(message: str, *, tip: str = "", code: int = 2) -> NoReturn:
    """Print an error and end the process.

    Further lines of the message, a parser's for instance, are indented so that none looks like an error of its own.
    """
    first, *rest = map(printable, message.strip().splitlines() or [""])
    lines = [f"error: {first}", *(f"  {line.strip()}" for line in rest), *([f"tip: {tip}"] if tip else [])]
    print("\n".join(lines), file=sys.stderr)
    sys.exit(code)


def _lost_rank(error: Exception) -> str | None:
    """What torch says of it in forty lines, on each rank."""
    if not lost_rank(error):
        return None
    rank, reason = rank_zero_only.rank, str(error).split("] ", 1)[-1].split(". ")[0]  # type: ignore[attr-defined]
    return (
        f"rank {rank} has lost another process of this run, which was killed or whose own message says why ({reason})"
    )


def _lost_worker(error: Exception) -> str | None:
    """The end of a process that reads images, if the error comes of one."""
    found = _end_of_worker(error, error.__cause__, error.__context__)
    if found is None:
        if not _broken_off(error):
            return None
        try:
            found = _exit_of_worker(error)
        except RuntimeError as reason:  # of torch's handler of SIGCHLD
            found = _end_of_worker(reason)
    worker, ending = (f"process {found[0]}", found[1]) if found else ("a process", "ended unexpectedly")
    if "Killed" in ending:
        cause = "usually for memory: give the job more, or take fewer workers with --data.num_workers"
    elif "Bus error" in ending:
        cause = "usually because /dev/shm is full: give it more room, or take fewer workers with --data.num_workers"
    else:
        cause = "its own messages stand above; with --data.num_workers=0 this process reads and shows where it fails"
    return f"{worker} that reads images for this one {ending} ({cause})"


def _end_of_worker(*errors: BaseException | None) -> tuple[str, str] | None:
    """Number and end of a DataLoader's worker, as one of these errors tells them."""
    found = next((match for error in errors if (match := _WORKER.search(str(error)))), None)
    return (found[1], found[2]) if found else None


def _exit_of_worker(error: Exception) -> tuple[str, str] | None:
    """Return number and end of a worker of the DataLoader that raised this error: it may end just after it."""
    loaders = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    workers = [
        worker
        for loader in loaders
        if isinstance(loader, dataloader._MultiProcessingDataLoaderIter)
        for worker in loader._workers
    ]
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        for worker in workers:
            code = worker.exitcode
            if code not in (None, 0, -signal.SIGTERM):  # the loader ends the others by SIGTERM
                exited = f"exited unexpectedly with exit code {code}"
                return str(worker.pid), f"is killed by signal: {signal.strsignal(-code)}" if code < 0 else exited
        time.sleep(0.05)
    return None


def _broken_off(error: Exception) -> bool:
    """Whether a DataLoader's worker ended while the process that it reads for took an image from it."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid(s)" in str(error)
    taking = dataloader._MultiProcessingDataLoaderIter._try_get_data.__code__
    frames = traceback.walk_tb(error.__traceback__)
    return "in pin memory thread" in str(error) or any(frame.f_code is taking for frame, _ in frames)
