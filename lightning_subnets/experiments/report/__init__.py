"""A report on runs: ``plots`` and ``tables`` show them, and ``page`` puts all of it on one page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from lightning_subnets import atomic_file
from lightning_subnets.errors import UnwritableError, UserError, printable
from lightning_subnets.experiments.report import page, tables
from lightning_subnets.experiments.sweep import results
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.run_files import summary
from lightning_subnets.run_files.run_directory import FAILURE, why_unfinished
from lightning_subnets.training import csv_text
from lightning_subnets.training.csv_text import Row

_OURS = b'<meta name="generator" content="lightning-subnets">'  # in every report


class Found(NamedTuple):
    """The sweeps and the runs in a directory."""

    sweeps: dict[str, tuple[Sweep, list[Row]]]  # by their paths from the directory
    # The summaries of other runs by name and version; None for a run that is not finished.
    runs: dict[tuple[str, str], dict[str, Any] | None]
    unfinished: dict[str, str]  # why they are not, by name and version


def report(runs: str, out: str | None = None) -> None:
    """Write the report on a directory of sweeps or runs into ``out``, by default ``report`` in that directory.

    Raises:
        UserError: if there is nothing to report on, or a file is damaged.
        UnwritableError: if the report cannot be written.
    """
    path = Path(runs)
    if not path.is_dir():
        raise UserError(f"{path} is not a directory: name one that contains runs or sweeps, such as runs")
    found = Found({}, {}, {}) if _is_run(path) else find(path)
    folder = path / "report" if out is None else Path(out)
    if out is None and not folder.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{folder} is a link that leaves {path}: name the directory to write to with --out")
    sweeps = [page.sweep_section(name, sweep, rows) for name, (sweep, rows) in found.sweeps.items()]
    files = {name: content for section in sweeps for name, content in section.files.items()}
    table, run = tables.of_runs(found.runs) if found.runs else None, None
    if table is not None:
        files |= {"runs.csv": csv_text.table(table.data).encode(), "runs.md": tables.as_markdown(table).encode()}
    if _is_run(path):
        run = page.run_section(path.resolve(), summary.read(path))
        files |= run.files
    title = f"Report on {run.name if run else path.resolve().name}"
    # The page comes first, because it shows that the other files are of a report, also if the rest is not written.
    files = {"index.html": page.render(title, sweeps, table, run, found.unfinished).encode(), **files}
    try:
        _check_place(folder, files)
        for name, content in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_file.write(file, content)
    except OSError as error:
        reason = f"no report can be written to {folder} ({error.strerror})"
        raise UnwritableError(reason, "name another --out") from error
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for section in sweeps:
        if section.missing:
            console.print(printable(f"{section.sweep.name}: {section.missing}"))
    console.print(printable(f"report: {folder / 'index.html'}"))


def _check_place(folder: Path, names: Iterable[str]) -> None:
    """Check that the files of a report stay in its directory, and replace none of the user's own.

    A file beside a ``sweep.yaml`` is the package's.
    """
    index = folder / "index.html"
    ours = index.is_file() and not index.is_symlink() and _OURS in index.read_bytes()
    for file in (folder / name for name in names):
        if not file.parent.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{file.parent} is a link that leaves {folder}: remove it, or name another --out")
        if not ours and file.exists() and not file.is_symlink() and not (file.parent / "sweep.yaml").is_file():
            raise UserError(f"{file} is not of a report, and would be replaced: name another --out, or move it")


def find(path: Path) -> Found:
    """Find the sweeps and the runs in a directory, and in three levels of directories below it.

    Raises:
        UserError: if there are neither sweeps nor runs, or a file of one is damaged.
    """
    levels = ("*/", "*/*/", "*/*/*/")  # runs/<name>/<version>, and a name may have a slash
    folders = [path, *(folder for level in levels for folder in sorted(path.glob(level), key=_by_number))]
    sweeps = {folder: results.read(folder) for folder in folders if (folder / "sweep.yaml").is_file()}
    in_sweeps = {folder.parent / "runs" for folder in sweeps}  # these runs are in their sweeps' tables
    runs = [folder for folder in folders if _is_run(folder) and folder.parent not in in_sweeps]
    if not sweeps and not runs:
        raise UserError(
            f"{path} contains neither runs nor sweeps: name a run's directory (runs/<name>/<version>), one above it, "
            "or the --out of `subnets sweep`"
        )
    summaries = {_name_and_version(folder, path): (folder, summary.read(folder)) for folder in runs}
    return Found(
        {read[0].name if at == path else str(at.relative_to(path)): read for at, read in sweeps.items()},
        {run: read for run, (_, read) in summaries.items()},
        {", ".join(run): why_unfinished(folder) for run, (folder, read) in summaries.items() if not read},
    )


def _name_and_version(run: Path, path: Path) -> tuple[str, str]:
    """Return a run's name, which is its path below the directory that is reported on, and its version."""
    name = run.relative_to(path).parent
    return str(name) if name.parts else Path(os.path.abspath(run)).parent.name, run.name


def _is_run(folder: Path) -> bool:
    written = any((folder / name).is_file() for name in ("metrics.csv", "summary.json", FAILURE))
    return written and (folder / "config.yaml").is_file()


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts version_10 after version_9."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"([0-9]+)", str(path))]
