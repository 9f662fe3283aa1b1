"""The end of a command that fails: an error in one line, and an exit code."""

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

from lightning_subnets.commands import streams
from lightning_subnets.errors import UserError, printable

# The disk is full, or a quota or the largest size of a file is reached.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORKER = re.compile(
    r"DataLoader worker \(pid (\d+)\) (is killed by signal: [^.]+|exited unexpectedly with exit code \d+)"
)


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """End the process with one line on standard error instead of a traceback, if the reason is known.

    The exit code is 2 if a user can correct the reason, 1 if another process is lost, and 130 after Ctrl-C. Inside the
    block, printing cannot raise an error, see ``streams``.
    """
    streams.make_lossy()
    try:
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            _end_if_known(error)
            raise
    except RuntimeError as error:  # torch's SIGCHLD handler raises anywhere, also in another handler
        _end_if_known(error)
        raise
    except UserError as error:
        # An error from a worker process brings that process's traceback before its message.
        end(printable(str(error).rsplit("UserError: ", 1)[-1].strip()))
    except (KeyboardInterrupt, SystemExit) as stop:  # where nothing is there to be saved, so before or after training
        by_lightning = isinstance(stop.__context__, KeyboardInterrupt) and stop.args == (1,)
        if isinstance(stop, SystemExit) and not by_lightning:
            raise
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if type(error).__name__ != "MisconfigurationException":  # Lightning's, not imported because of ``--help``
            raise
        end(str(error))


def _end_if_known(error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in _FULL:
        where = error.filename or "a file"
        end(f"{where} cannot be written ({error.strerror}): make room, or name another place")
    if isinstance(error, PermissionError) and error.filename is not None:
        end(f"{error.filename} cannot be read or written ({error.strerror}): ask its owner, or name another place")
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
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from lightning_subnets.commands.lost_ranks import lost_rank

    if not lost_rank(error):
        return None
    rank, reason = rank_zero_only.rank, str(error).split("] ", 1)[-1].split(". ")[0]  # type: ignore[attr-defined]
    return (
        f"rank {rank} has lost another process of this run, which was killed or says why in its own message ({reason})"
    )


def _lost_worker(error: Exception) -> str | None:
    """Return how a DataLoader worker ended, or None if the error has another cause."""
    try:
        found = _end_of_worker(error, error.__cause__, error.__context__) or _exit_of_worker(error)
    except RuntimeError as reason:  # from torch's SIGCHLD handler
        found = _end_of_worker(reason)
    if found is None:
        return None
    pid, ending = found
    if "Killed" in ending:
        cause = "usually because memory ran out: give the job more, or use fewer workers with --data.num_workers"
    elif "Bus error" in ending:
        cause = "usually because /dev/shm is full: give it more room, or use fewer workers with --data.num_workers"
    else:
        cause = "its own messages are above; with --data.num_workers=0 this process reads and shows where it fails"
    return f"DataLoader worker (pid {pid}) {ending} ({cause})"


def _end_of_worker(*errors: BaseException | None) -> tuple[str, str] | None:
    """Return the process id of a DataLoader worker and how it ended, if one of the errors contains them."""
    found = next((match for error in errors if (match := _WORKER.search(str(error)))), None)
    return (found[1], found[2]) if found else None


def _exit_of_worker(error: Exception) -> tuple[str, str] | None:
    """Return the same for a worker of the DataLoader that raised the error, or None if all workers still run.

    A worker may end just after the error, so wait up to two seconds, also if the data set raised the error.
    """
    from torch.utils.data import dataloader

    loaders = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    kind = dataloader._MultiProcessingDataLoaderIter
    workers = [worker for loader in loaders if isinstance(loader, kind) for worker in loader._workers]
    deadline = time.monotonic() + 2
    while workers and time.monotonic() < deadline:
        for worker in workers:
            code = worker.exitcode
            if code not in (None, 0, -signal.SIGTERM):  # the loader ends the others by SIGTERM
                exited = f"exited unexpectedly with exit code {code}"
                return str(worker.pid), f"is killed by signal: {signal.strsignal(-code)}" if code < 0 else exited
        time.sleep(0.05)
    return None
