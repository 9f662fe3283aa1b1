"""The results of a sweep: a table with a row for each planned run."""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Json

from lightning_subnets import atomic_file
from lightning_subnets.errors import UnwritableError, UserError
from lightning_subnets.experiments.sweep.figure import COLUMNS, MEASURED, NUMBERS, VERSIONS, Value
from lightning_subnets.experiments.sweep.plan import PlannedRun, Sweep
from lightning_subnets.run_files.names import plain_name
from lightning_subnets.run_files.run_directory import lock
from lightning_subnets.run_files.summary import read as read_summary
from lightning_subnets.training import csv_text
from lightning_subnets.training.csv_text import Row
from lightning_subnets.training.schema import Strict, first_mistake


class _RowSchema(Strict):
    """The values that a report needs from a row."""

    line: str
    seed: int
    status: Literal["finished", "failed", "missing"]
    units_on_paths: Json[dict[str, float]] | None
    directory: str
    command: str


def directory_of(run: str, out: Path) -> Path:
    """Return the directory of a run."""
    return out / "runs" / run


def summary_of(run: str, out: Path) -> Path:
    """Return the file that a run writes when it is finished."""
    return directory_of(run, out) / "summary.json"


def failure_of(run: str, out: Path) -> Path:
    """Return the file that says why a run has failed."""
    return out / "runs" / f"{run}.failed"


def log_of(run: str, out: Path) -> Path:
    """Return the file with the output of a run."""
    return out / "runs" / f"{run}.log"


def last_message(run: str, out: Path, since: float = 0.0) -> str:
    """Return the last line of a run's output that is not a tip; "" if it has written nothing since a time."""
    log = log_of(run, out)
    written = log.exists() and log.stat().st_mtime >= since
    lines = log.read_text(errors="replace").split("\n") if written else []
    messages = [line for line in lines if line.strip() and not line.startswith("tip:")]
    return messages[-1].removeprefix("error: ") if messages else ""


class InUseError(UserError):
    """Another process holds a directory."""


@contextmanager
def locked(folder: Path, *, patience: float) -> Iterator[None]:
    """Make and lock a directory beside that of the runs, and make the directory of the runs.

    Raises:
        InUseError: if another process still holds it after ``patience`` seconds.
        UnwritableError: if it cannot be made.
    """
    deadline = time.monotonic() + patience
    try:
        for each in (folder, folder.parent / "runs"):
            each.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                held = lock(folder)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InUseError(f"another subnets sweep writes to {folder}: wait until it has ended") from None
                time.sleep(0.1)
    except OSError as error:
        reason = f"no runs can be kept in {folder.parent} ({error.strerror})"
        raise UnwritableError(reason, "name another --out") from error
    try:
        yield
    finally:
        os.close(held)


def finished(sweep: Sweep, out: Path) -> set[str]:
    """Return the names of the finished runs, also of those whose directories have been removed to make room."""
    return {run.name for run in sweep.runs() if summary_of(run.name, out).is_file()} | {*_kept(out / sweep.name)}


def write(sweep: Sweep, out: Path) -> list[Row]:
    """Write ``sweep.yaml`` and ``results.csv`` into ``out/<sweep>``, from which a report is made.

    A finished run whose directory has been removed keeps its results.

    Returns: a row for each planned run, with its results if it is finished.

    Raises:
        UnwritableError: if they cannot be written.
        UserError: if another figure of the same file name has its results there, or results would be lost.
    """
    axes = list(dict.fromkeys(axis for line in sweep.lines().values() for axis in sweep.axes(line)))
    folder = out / sweep.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "sweep.yaml").exists():
            there = Sweep.load(folder / "sweep.yaml").figure
            if (there.title, there.source) != (sweep.figure.title, sweep.figure.source):
                raise UserError(f"{folder} holds another figure, {there.title!r}: name another --out")
        kept = _kept(folder)
        if lost := kept.keys() - {run.name for run in sweep.runs()}:
            raise UserError(
                f"{folder / 'results.csv'} has the only results of {len(lost)} of the figure's earlier runs, such as "
                f"{min(lost)}: move the file away to keep them"
            )
        rows = [_row_of(run, axes, out, kept.get(run.name)) for run in sweep.runs()]
        # The table comes first, because only it may have what is nowhere else.
        atomic_file.write(folder / "results.csv", csv_text.table(rows))
        sweep.write(folder / "sweep.yaml")
    except OSError as error:
        reason = f"no results can be kept in {folder} ({error.strerror})"
        raise UnwritableError(reason, "make room, or name another --out") from error
    return rows


def read(folder: Path) -> tuple[Sweep, list[Row]]:
    """Read a sweep and its rows; the results of runs that are on this machine are read from the runs themselves.

    Raises:
        UserError: if a file is missing or damaged, or a run's name cannot name a directory.
    """
    sweep = Sweep.load(folder / "sweep.yaml")
    path, out = folder / "results.csv", folder.parent
    on_axes: dict[str, dict[str, Value]] = {}  # the values of each axis by their texts
    for line in sweep.lines().values():
        for axis, values in sweep.axes(line).items():
            on_axes.setdefault(axis, {}).update({str(value): value for value in values})
    try:
        written = csv_text.read(path)
        if not written:
            raise ValueError("it has no rows")
        rows = [{name: _value(name, text, on_axes) for name, text in row.items()} for row in written]
        if any(row.keys() != {*COLUMNS, *on_axes} for row in rows):
            raise ValueError("it lacks columns, or has unknown ones")
        for row in rows:
            _RowSchema.model_validate(row)
            plain_name(row["directory"], f"the directory of a run in {path}")
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        wrong = first_mistake(error)
        raise UserError(
            f"{path} cannot be read ({wrong}): move it away, and repeat the sweep to write it again"
        ) from error
    for row in rows:
        run = str(row["directory"])
        here = directory_of(run, out).is_dir() or failure_of(run, out).is_file()
        if summary_of(run, out).is_file() or (here and row["status"] != "finished"):
            row |= _measured(run, out)
    return sweep, rows


def _kept(folder: Path) -> dict[str, Row]:
    """Return the results of the finished runs that only ``results.csv`` has, by the name of the run.

    Its other columns belong to the figure as it was when they were written.
    """
    path, names = folder / "results.csv", ("status", "error", *MEASURED, "finished", *VERSIONS)
    try:
        rows = [row for row in csv_text.read(path) if row["status"] == "finished"]
        kept = {row["directory"]: {name: _value(name, row[name], {}) for name in names} for row in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({first_mistake(error)}): move it away") from error
    return {run: row for run, row in kept.items() if not summary_of(run, folder.parent).is_file()}


def _row_of(run: PlannedRun, axes: list[str], out: Path, kept: Row | None) -> Row:
    return {
        "line": run.line,
        **{axis: run.values.get(axis) for axis in axes},
        "seed": run.seed,
        **(kept or _measured(run.name, out)),
        "directory": run.name,
        "command": shlex.join(["lightning", "fit", *run.arguments]),
    }


def _measured(run: str, out: Path) -> Row:
    row: Row = dict.fromkeys(("status", "error", *MEASURED, "finished", *VERSIONS))
    failure = failure_of(run, out)
    try:
        summary = read_summary(directory_of(run, out))
    except UserError as error:
        return row | {"status": "failed", "error": str(error)}
    if summary is None:
        if failure.is_file():
            return row | {"status": "failed", "error": failure.read_text().strip()}
        return row | {"status": "missing"}
    row["status"] = "finished"
    for name in (*MEASURED, "finished"):
        value = summary.get(name)
        row[name] = json.dumps(value) if isinstance(value, dict) else value
    units = summary.get("units_on_paths")
    if units and not any(units.values()):  # the logarithm of no path is -inf, for which JSON has no number
        row |= {name: -math.inf for name in ("log10_paths", "log10_trace") if row[name] is None}
    return row | {name: summary.get("versions", {}).get(name) for name in VERSIONS}


def _value(name: str, text: str, on_axes: Mapping[str, Mapping[str, Value]]) -> str | float | None:
    if not text:
        return None
    if name in on_axes:
        return on_axes[name][text]
    if name in ("seed", "epochs", "steps"):
        return int(text)
    if name not in NUMBERS:
        return text
    return int(text) if text.isdecimal() else float(text)
