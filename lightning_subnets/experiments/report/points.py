"""The points of a sweep: each is a group of runs that differ only in the seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from lightning_subnets.experiments.report.quantities import with_axis
from lightning_subnets.experiments.sweep.figure import Value
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.training.csv_text import Row

NAMED = 3  # runs that are named; the others are counted


class Measured(NamedTuple):
    """A mean and a standard deviation."""

    mean: float
    deviation: float | None  # with n - 1 in its denominator; None for one value


def measured(values: Sequence[float], scale: float = 1) -> Measured:
    """Return mean and deviation of at least one value, each value multiplied by ``scale``."""
    scaled = [scale * value for value in values]
    return Measured(fmean(scaled), stdev(scaled) if len(scaled) > 1 else None)


def numbers(rows: Iterable[Row], column: str) -> list[float]:
    """Return the finite numbers in a column of the finished runs."""
    cells = (row[column] for row in rows if row["status"] == "finished")
    return [cell for cell in cells if isinstance(cell, int | float) and math.isfinite(cell)]


def axes_of(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    """Return the names of the axes that the results have a column for."""
    own = (axis for line in sweep.lines().values() for axis in line.axes)
    known = dict.fromkeys([*sweep.figure.axes, *sweep.scale.axes, *own])
    return [axis for axis in known if rows and axis in rows[0]]


def grouped(rows: Iterable[Row], columns: Sequence[str]) -> dict[tuple[Value | None, ...], list[Row]]:
    """Group rows by their values in some columns, in the order of first appearance."""
    groups: dict[tuple[Value | None, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def values_of(rows: Iterable[Row], axis: str) -> list[Value]:
    """Return the values on an axis: numbers in ascending order, names in the order of first appearance."""
    present = list(dict.fromkeys(value for row in rows if (value := row[axis]) is not None))
    return sorted(present) if all(isinstance(value, int | float) for value in present) else present


def seeds(rows: Sequence[Row], axes: Sequence[str]) -> list[str]:
    """Return a sentence on the number of finished seeds at each point, or nothing if no run is finished."""
    finished = [row for row in rows if row["status"] == "finished"]
    counts = {len(group) for group in grouped(finished, ["line", *axes]).values()}
    if max(counts, default=0) < 2:
        return ["1 seed"] if counts else []
    return [f"mean and one standard deviation of {' to '.join(map(str, sorted({min(counts), max(counts)})))} seeds"]


def incomplete(rows: Sequence[Row], axes: Sequence[str]) -> str:
    """Return ``2 of 40 runs missing (Conv2, seed 0; ...), 1 failed (...)``, or "" if all runs are finished."""
    parts: list[str] = []
    for status in ("missing", "failed"):
        if which := [row for row in rows if row["status"] == status]:
            total = "" if parts else f" of {len(rows)} runs"
            parts.append(f"{len(which)}{total} {status} ({describe(which, axes)})")
    return ", ".join(parts)


def describe(rows: Sequence[Row], axes: Sequence[str]) -> str:
    """Return the first few runs in words, and how many more there are."""
    return first_few([describe_run(row, axes) for row in rows])


def first_few(words: Sequence[str]) -> str:
    """Return the first few words, and how many more there are."""
    return "; ".join([*words[:NAMED], *([f"and {len(words) - NAMED} more"] if len(words) > NAMED else [])])


def describe_run(row: Row, axes: Sequence[str]) -> str:
    """Return a run in words: its line, its value on each axis, and its seed."""
    words = [with_axis(column, value) for column in (*axes, "seed") if (value := row[column]) is not None]
    return ", ".join([str(row["line"]), *words])
