"""A directory for each run, never shared and never overwritten."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only

from lightning_subnets.errors import UserError


@dataclass(frozen=True)
class RunDirectory:
    """A directory of one run's own.

    Args:
        path: the directory.
        made: it and the directories above it that were made for it, the innermost first.
    """

    path: Path
    made: tuple[Path, ...]

    @classmethod
    def claim(cls, root: Path | str, name: str) -> RunDirectory:
        """A new directory ``root/name/version_N`` with the lowest N that is free.

        Making the directory is what claims it, so that two runs started at once get two. Only the first process of a
        run writes there; the others are told a path that they leave alone.
        """
        parent = Path(root, name)
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            return cls(parent, made=())
        missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"no run can be kept in {parent}: {error.strerror}") from error
        for version in itertools.count():
            path = parent / f"version_{version}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return cls(path, made=(path, *missing))
        raise AssertionError("there is always a next number")

    def give_back(self) -> None:
        """Remove what was made for a run that ended before it wrote anything."""
        for folder in self.made:
            if any(folder.iterdir()):
                return
            folder.rmdir()
