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

from lightning_subnets.errors import UserError
from lightning_subnets.run_files.names import plain_name


@dataclass
class RunDirectory:
    """A directory of one run's own.

    Args:
        path: the directory.
        made: it and the directories above it that were made for it, the innermost first.
    """

    path: Path
    made: tuple[Path, ...] = ()
    _lock: int | None = field(default=None, repr=False)

    @classmethod
    def claim(cls, root: Path | str, name: str, version: str | None = None) -> RunDirectory:
        """The directory ``root/name/version``, there already or not; by default a new ``version_N`` with the lowest N.

        Making a new directory is what claims it, so that two runs started at once get two. Only the first process of a
        run writes there; the others are told a path that they leave alone.

        Raises:
            ValueError: if the version cannot be the name of a directory, or the directory cannot be made or written
                to, or another process is using it.
        """
        if version:
            plain_name(version, "--version")
        parent = Path(root, name)
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            return cls(parent / version if version else parent)
        missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        try:
            numbers = itertools.count()
            while True:
                run = cls(parent / (version or f"version_{next(numbers)}"), made=tuple(missing))
                if run._take(new=version is None):
                    return run
        except OSError as error:
            raise UserError(f"no run can be kept in {error.filename or parent}: {error.strerror}") from error

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, if there is one."""
        path = self.path / "checkpoints" / "last.ckpt"
        return path if path.is_file() else None

    @property
    def summary(self) -> Path:
        """What a run writes when it is finished."""
        return self.path / "summary.json"

    def _take(self, *, new: bool) -> bool:
        """Make the directory if it is missing, and keep other processes out until this one ends, however it ends.

        Args:
            new: do not take a directory that exists already.

        Returns: whether this process has taken the directory; False if another process has made or just removed it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.path.mkdir()
        except FileExistsError:
            if new:
                return False
            if self.path.is_symlink() and not self.path.exists():
                raise
        else:
            self.made = (self.path, *self.made)
        try:
            self._lock = lock(self.path)
        except FileNotFoundError:
            return False
        except BlockingIOError as error:
            if new:
                return False
            raise UserError(
                f"{self.path} is being used by another process: wait until it has ended, or name another --version"
            ) from error
        return True

    def release(self) -> None:
        """Let other processes in, and remove what was made for a run that ended before it wrote anything."""
        if self._lock is None:
            return
        if self.path in self.made and [entry.name for entry in self.path.iterdir()] == [".lock"]:
            (self.path / ".lock").unlink()
        os.close(self._lock)
        self._lock = None
        with suppress(OSError):  # a directory is not empty if another process has a run there
            for folder in self.made:
                folder.rmdir()


def lock(folder: Path) -> int:
    """Keep other processes out of a directory until the descriptor that is returned is closed.

    Raises:
        BlockingIOError: if another process has the lock.
        FileNotFoundError: if the directory does not exist.
    """
    path = folder / ".lock"
    for _ in range(_TRIES):
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
            # The last owner may have removed this file after it was opened here; the next process then makes a new one.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        os.close(descriptor)
        time.sleep(0.01)
    raise BlockingIOError(f"{path} is still locked after {_TRIES} tries")


def in_use(folder: Path) -> bool:
    """Whether a process is making the run of a directory."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return _is_owned(descriptor)
    finally:
        os.close(descriptor)


def _is_owned(descriptor: int) -> bool:
    """Return whether another process owns a lock file; a process that only asks takes a shared lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False


_TRIES = 100  # to lock a file that other processes share for a moment, to ask whether it is owned
