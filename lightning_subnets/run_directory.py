"""A directory for each run, used by one process at a time, in which nothing is overwritten."""

from __future__ import annotations

import fcntl
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only

from lightning_subnets.errors import UserError


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
            ValueError: if the version is a path, or the directory cannot be made or written to, or another process is
                using it.
        """
        if version and (version in (".", "..") or "/" in version):
            raise UserError(
                f"--version={version} is a path, and what is wanted is the name of a directory in {Path(root, name)}"
            )
        parent = Path(root, name)
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            return cls(parent / version if version else parent)
        missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for number in itertools.count():
                run = cls(parent / (version or f"version_{number}"), made=tuple(missing))
                try:
                    run.path.mkdir()
                except FileExistsError:
                    if version is None:
                        continue
                else:
                    run.made = (run.path, *missing)
                break
            run._hold()
        except OSError as error:
            raise UserError(f"no run can be kept in {error.filename or parent}: {error.strerror}") from error
        return run

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, if there is one."""
        path = self.path / "checkpoints" / "last.ckpt"
        return path if path.is_file() else None

    @property
    def summary(self) -> Path:
        """What a run writes when it is finished."""
        return self.path / "summary.json"

    def _hold(self) -> None:
        """Keep other processes out until this one ends, however it ends."""
        try:
            self._lock = lock(self.path)
        except BlockingIOError as error:
            raise UserError(
                f"{self.path} is being used by another process: wait until it has ended, or name another --version"
            ) from error

    def give_back(self) -> None:
        """Let other processes in, and remove what was made for a run that ended before it wrote anything."""
        if self._lock is None:
            return
        if self.path in self.made and [entry.name for entry in self.path.iterdir()] == [".lock"]:
            (self.path / ".lock").unlink()
        os.close(self._lock)
        for folder in self.made:
            if any(folder.iterdir()):
                return
            folder.rmdir()


def lock(folder: Path) -> int:
    """Keep other processes out of a directory until the descriptor that is returned is closed.

    Raises:
        BlockingIOError: if another process is in there.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass  # a file system without locks
    return descriptor


def in_use(folder: Path) -> bool:
    """Whether a process is making the run of a directory."""
    if not folder.is_dir():
        return False
    try:
        os.close(lock(folder))
    except BlockingIOError:
        return True
    return False
