"""Files that are written completely or not at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lightning_subnets.errors import UserError


def check_place(path: Path, *, force: bool) -> None:
    """Check that a new file can be written at this path.

    Args:
        path: the new file.
        force: whether it may replace an existing file.

    Raises:
        ValueError: if the directory does not exist, something that is not a file has this path, or the file exists and
            may not be replaced.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a directory: create it, or name another place than {path}")
    if path.is_dir():
        raise UserError(f"{path} is a directory: name a file")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a device, a pipe or a socket, which a file cannot replace: name a file")
    if path.exists() and not force:
        raise UserError(f"{path} exists: --force replaces it, in Python force=True; or name another file")


def write(path: Path, content: bytes | memoryview | str, *, advice: str = "") -> None:
    """Write a file as ``replacing`` does; text is encoded in UTF-8. With ``advice``, a failure is a ``UserError``."""
    try:
        with replacing(path) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        if not advice:
            raise
        raise UserError(f"{path} cannot be written ({error.strerror or error}): {advice}") from error


@contextmanager
def replacing(path: Path, *, claim: Callable[[], Path] | None = None) -> Generator[BinaryIO]:
    """Open a file that atomically replaces ``path`` at the end of the block, flushed to the disk.

    Several processes may write the same file at once; the last one to end its block wins. An error, a kill or a full
    disk before that leaves ``path`` as it was. A kill leaves a ``.partial`` file beside it, which the next call
    removes if the file system has locks.

    Args:
        path: the file.
        claim: returns, at the end of the block, another path in the same directory to replace instead.

    Raises:
        OSError: if the file cannot be written.
    """
    _remove_rests(path)
    partial, file = _locked_partial(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path if claim is None else claim())  # before the file is closed, which unlocks it
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # Flush the new name too; otherwise the old file may return after a power failure. Some file systems refuse that,
    # and the file is in place all the same.
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _locked_partial(path: Path) -> tuple[Path, BinaryIO]:
    """Create a file beside ``path`` with a name of its own, and lock it until it is closed."""
    import fcntl  # here, because Windows lacks it and can read files

    while True:
        partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
        # Create the file exclusively: opening a symbolic link would overwrite the file that the link points to.
        file = partial.open("xb")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if partial.exists():  # another process may have removed it before it was locked
            return partial, file
        file.close()


def _remove_rests(path: Path) -> None:
    """Remove the files that killed processes have left beside ``path``; nobody locks these any more."""
    import fcntl

    for rest in path.parent.glob(f".{glob.escape(path.name)}.{8 * '[0-9a-f]'}.partial"):
        with suppress(OSError):
            # Neither follow a link nor wait for the other end of a pipe that a stranger has put here.
            descriptor = os.open(rest, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                rest.unlink()
            finally:
                os.close(descriptor)
