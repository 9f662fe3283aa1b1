"""What there is to report on: sweeps, ordinary runs, or one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lightning_subnets.errors import UserError
from lightning_subnets.experiments.sweep import results
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.experiments.sweep.results import Row
from lightning_subnets.run_files import summary

Summary = dict[str, Any]


class Found(NamedTuple):
    """
    Attributes:
        run: the directory, where it is a run's own.
        sweeps: each with its results, by its path from the directory.
        runs: the summaries of other runs by name and version, None of a run that is not finished.
    """

    run: Path | None
    sweeps: dict[str, tuple[Sweep, list[Row]]]
    runs: dict[tuple[str, str], Summary | None]


def find(path: Path) -> Found:
    """What stands in a directory: in it, in directories in it, and in those in these.

    Raises:
        ValueError: if there is nothing, or no directory.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no directory: name one with runs or sweeps in it, such as runs")
    if _is_run(path):
        return Found(path, {}, {})
    folders = [path, *sorted(path.glob("*/")), *sorted(path.glob("*/*/"))]
    sweeps = [folder for folder in folders if (folder / "sweep.yaml").is_file()]
    # The runs of sweeps are in the tables of these.
    stores = {folder.parent / "runs" for folder in sweeps}
    runs = [folder for folder in folders if _is_run(folder) and folder.parent not in stores]
    if not sweeps and not runs:
        raise UserError(
            f"{path} has no runs in it, nor sweeps: name what `lightning fit` leaves (runs/<name>/<version>, or the "
            f"directories above it) or the --out of `subnets sweep`"
        )
    named = {(folder.resolve().parent.name, folder.name): summary.read(folder) for folder in runs}
    read = {folder: results.read(folder) for folder in sweeps}
    places = {folder: str(folder.relative_to(path)) if folder != path else read[folder][0].name for folder in sweeps}
    return Found(None, {places[folder]: found for folder, found in read.items()}, named)


def _is_run(folder: Path) -> bool:
    return (folder / "metrics.csv").is_file() and (folder / "config.yaml").is_file()
