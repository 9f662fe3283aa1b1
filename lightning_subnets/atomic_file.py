"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lightning_subnets.errors import UserError


def check_place(path: Path, *, force: bool) -> None:
    """Check that a new file can be written there.

    Args:
        force: it may take the place of one that is there.

    Raises:
        ValueError: if the directory does not exist, or the file does, and is not to be replaced.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no directory: create it, or name another place than {path}")
    if path.is_dir():
        raise UserError(f"{path} is a directory: name a file")
    if path.exists() and not force:
        raise UserError(f"{path} exists: --force replaces it, in Python force=True; or name another file")


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A file to write that takes the place of ``path`` at the end of the block, all at once and on the disk.

    Whatever happens before, a kill or a full disk included, leaves what was there. A kill leaves a ``.partial`` file
    beside it, which the next writing replaces.

    Raises:
        OSError: if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        # The file has to be new: opening a link of that name would overwrite the file that the link points to.
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # The new name too, or a machine that fails may come back with the old file.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
