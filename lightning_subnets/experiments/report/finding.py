"""The sweeps and the runs in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lightning_subnets.errors import UserError
from lightning_subnets.experiments.sweep import results
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.experiments.sweep.results import Row
from lightning_subnets.run_files import summary


class Found(NamedTuple):
    """The contents of a directory."""

    run: Path | None  # the directory, if it is a run's own
    sweeps: dict[str, tuple[Sweep, list[Row]]]  # by their paths from the directory
    # The summaries of other runs by name and version; None for a run that is not finished.
    runs: dict[tuple[str, str], dict[str, Any] | None]


def find(path: Path) -> Found:
    """Find the sweeps and the runs in a directory, and in two levels of directories below it.

    Raises:
        UserError: if the directory does not exist, or has neither sweeps nor runs.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a directory: name one that contains runs or sweeps, such as runs")
    if _is_run(path):
        return Found(path, {}, {})
    folders = [path, *sorted(path.glob("*/")), *sorted(path.glob("*/*/"))]
    sweeps = {folder: results.read(folder) for folder in folders if (folder / "sweep.yaml").is_file()}
    in_sweeps = {folder.parent / "runs" for folder in sweeps}  # these runs are in their sweeps' tables
    runs = [folder for folder in folders if _is_run(folder) and folder.parent not in in_sweeps]
    if not sweeps and not runs:
        raise UserError(
            f"{path} contains neither runs nor sweeps: name a run's directory (runs/<name>/<version>), one above it, "
            "or the --out of `subnets sweep`"
        )
    return Found(
        None,
        {read[0].name if at == path else str(at.relative_to(path)): read for at, read in sweeps.items()},
        {(folder.resolve().parent.name, folder.name): summary.read(folder) for folder in runs},
    )


def _is_run(folder: Path) -> bool:
    return (folder / "metrics.csv").is_file() and (folder / "config.yaml").is_file()
