"""A directory for each run, used by one process at a time, in which nothing is overwritten."""

from __future__ import annotations

import fcntl
import itertools
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only

from lightning_subnets.errors import UserError, printable
from lightning_subnets.run_files.names import name_below, plain_name

FAILURE = "failure.txt"  # why the last attempt to make the run has failed
_ATTEMPTS = 100  # to lock a file that another process may share for a moment, see in_use


@dataclass
class RunDirectory:
    """The directory of one run."""

    path: Path
    created: tuple[Path, ...] = ()  # the directories that were created for this run, the innermost first
    _started: bool = False
    _lock: int | None = field(default=None, repr=False)

    @classmethod
    def claim(cls, root: Path | str, name: str, version: str | None = None) -> RunDirectory:
        """Lock and return ``root/name/version``, which may exist; by default the first new ``version_N``.

        Creating a directory claims it, so two runs that start at once get different directories. Only rank 0 claims
        and writes; the other ranks get a path that they must not write to.
        """
        if version:
            plain_name(version, "--version")
        parent = Path(root, name_below(name, "--name"))
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            return cls(parent / version if version else parent)
        missing = tuple(folder for folder in (parent, *parent.parents) if not folder.exists())
        try:
            for number in itertools.count():
                run = cls(parent / (version or f"version_{number}"), created=missing)
                if run._take(new=version is None):
                    break
        except OSError as error:
            raise UserError(
                f"{error.filename or parent} cannot hold a run ({error.strerror}): name another "
                "--trainer.default_root_dir"
            ) from error
        return run

    @property
    def last_checkpoint(self) -> Path | None:
        path = self.path / "checkpoints" / "last.ckpt"
        return path if path.is_file() else None

    @property
    def summary(self) -> Path:
        """The path of the summary, which exists once the run is finished."""
        return self.path / "summary.json"

    def _take(self, *, new: bool) -> bool:
        """Create the directory if it is missing, and lock it until this process ends.

        Returns: False if another process has created the directory and ``new`` forbids that, or has just removed it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.path.mkdir()
            self.created = (self.path, *self.created)
        except FileExistsError:
            if new:
                return False
            if self.path.is_symlink() and not self.path.exists():
                raise
        try:
            self._lock = lock(self.path)
        except FileNotFoundError:
            return False
        except BlockingIOError as error:
            if new:
                return False
            raise UserError(
                f"{self.path} is being used by another process: wait until it has ended, or choose another --version"
            ) from error
        return True

    def start(self) -> None:
        """Remove why the last attempt has failed. A mistake before the start leaves the directory as it is."""
        if self._lock is not None:
            (self.path / FAILURE).unlink(missing_ok=True)
            self._started = True

    def release(self, error: BaseException | None = None) -> None:
        """Unlock the directory, remove what was created for a run that wrote nothing, and keep why a run failed."""
        if self._lock is None:
            return
        if self.path in self.created and [entry.name for entry in self.path.iterdir()] == [".lock"]:
            (self.path / ".lock").unlink()
        elif self._started and isinstance(error, Exception):
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            with suppress(OSError):
                (self.path / FAILURE).write_text(printable(" ".join(reason.split()))[:1000] + "\n")
        os.close(self._lock)
        self._lock = None
        with suppress(OSError):  # a directory is not empty if another process has a run there
            for folder in self.created:
                folder.rmdir()


def lock(folder: Path) -> int:
    """Lock a directory until the returned descriptor is closed; raise BlockingIOError if another process holds it."""
    path = folder / ".lock"
    for _ in range(_ATTEMPTS):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _is_owned(descriptor):
                os.close(descriptor)
                raise
        except OSError:
            return descriptor  # a file system without locks
        else:
            # The last owner may have removed the file after it was opened here; others would then lock a new file.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        os.close(descriptor)
        time.sleep(0.01)
    raise BlockingIOError(f"{path} is still locked after {_ATTEMPTS} attempts")


def in_use(folder: Path) -> bool:
    """Return whether a process is running the run of a directory."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return _is_owned(descriptor)
    finally:
        os.close(descriptor)


def why_unfinished(folder: Path) -> str:
    """Return why the directory of a run has no summary."""
    if in_use(folder):
        return "is still running"
    failure = folder / FAILURE
    if failure.is_file():
        return f"failed: {failure.read_text(errors='replace').strip()}"
    return "was stopped or killed; the same command with its --version resumes it"


def _is_owned(descriptor: int) -> bool:
    """Return whether another process owns a lock file, by taking a shared lock for a moment."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False
