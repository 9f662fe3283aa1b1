"""A report on runs: ``finding`` finds them, ``plots`` and ``tables`` show them, ``page`` puts all of it on one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from lightning_subnets.atomic_file import replacing
from lightning_subnets.errors import UserError, printable
from lightning_subnets.experiments.report import page, tables
from lightning_subnets.experiments.report.finding import find
from lightning_subnets.run_files.summary import read as read_summary


def report(runs: str, out: str | None = None) -> None:
    """Write the report on a directory of sweeps or runs into ``out``, by default ``report`` in that directory.

    Raises:
        UserError: if there is nothing to report on, a file is damaged, or the report cannot be written.
    """
    path = Path(runs)
    found = find(path)
    folder = path / "report" if out is None else Path(out)
    if out is None and not folder.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{folder} is a link that leaves {path}: name the directory to write to with --out")
    sweeps = [page.sweep_section(name, sweep, rows) for name, (sweep, rows) in found.sweeps.items()]
    files = {name: content for section in sweeps for name, content in section.files.items()}
    table, run = tables.of_runs(found.runs) if found.runs else None, None
    if table is not None:
        files |= {"runs.csv": tables.as_csv(table).encode(), "runs.md": tables.as_markdown(table).encode()}
    if found.run is not None:
        run = page.run_section(found.run.resolve(), read_summary(found.run))
        files |= run.files
    files["index.html"] = page.render(f"Report on {path.resolve().name}", sweeps, table, run).encode()
    try:
        _write(folder, files)
    except OSError as error:
        raise UserError(f"no report can be written to {folder}: {error.strerror}; name another --out") from error
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for section in sweeps:
        if section.missing:
            console.print(printable(f"{section.sweep.name}: {section.missing}"))
    console.print(printable(f"report: {folder / 'index.html'}"))


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path.parent} is a link that leaves {folder}: remove it, or name another --out")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
