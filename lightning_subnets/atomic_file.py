"""Files that are written completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lightning_subnets.errors import UserError


def check_place(path: Path, *, force: bool) -> None:
    """Check that a new file can be written at this path.

    Args:
        path: the new file.
        force: whether it may replace an existing file.

    Raises:
        ValueError: if the directory does not exist, or the file exists and may not be replaced.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no directory: create it, or name another place than {path}")
    if path.is_dir():
        raise UserError(f"{path} is a directory: name a file")
    if path.exists() and not force:
        raise UserError(f"{path} exists: --force replaces it, in Python force=True; or name another file")


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Open a file that atomically replaces ``path`` at the end of the block, flushed to the disk.

    An error, a kill or a full disk before that leaves ``path`` as it was. A kill leaves a ``.partial`` file beside it,
    which the next call replaces.

    Raises:
        OSError: if the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        # Create the file exclusively: opening a symbolic link would overwrite the file that the link points to.
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # Flush the new name too; otherwise the old file may return after a power failure.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
