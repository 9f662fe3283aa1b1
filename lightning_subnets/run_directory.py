"""A directory for each run, never shared and never overwritten."""

from __future__ import annotations

import itertools
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only


def claim(root: Path | str, name: str) -> Path:
    """A new directory ``root/name/version_N`` with the lowest N that was free.

    Making the directory is what claims it, so that two runs started at once get two. Only the first process of a
    run writes there; the others are told a path that they leave alone.
    """
    parent = Path(root, name)
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return parent
    parent.mkdir(parents=True, exist_ok=True)
    for version in itertools.count():
        path = parent / f"version_{version}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def give_back(path: Path) -> None:
    """Remove the directory of a run that ended before it wrote anything, and those it was the first in."""
    for folder in (path, path.parent, path.parent.parent):
        if not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()
