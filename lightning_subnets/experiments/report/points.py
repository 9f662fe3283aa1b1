"""The points of a sweep, each the runs that differ in the seed alone; and the runs that are not there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from lightning_subnets.experiments.report.quantities import spoken
from lightning_subnets.experiments.sweep.figure import Value
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.experiments.sweep.results import Row

Cell = str | float | None
NAMED = 3  # so many runs that are not there are named, and the others counted


class Measured(NamedTuple):
    """Mean, and standard deviation with n - 1 in the denominator, which one value has none of."""

    mean: float
    deviation: float | None


def measured(values: Sequence[float]) -> Measured | None:
    if not values:
        return None
    return Measured(fmean(values), stdev(values) if len(values) > 1 else None)


def numbers(rows: Iterable[Row], column: str) -> list[float]:
    """What was measured, where it was: not of a run that has failed, nor the log of nothing, -inf."""
    cells = (row[column] for row in rows if row["status"] == "finished")
    return [cell for cell in cells if isinstance(cell, int | float) and math.isfinite(cell)]


def axes_of(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    """The names of the axes that its results have a column for."""
    own = (axis for line in sweep.lines().values() for axis in line.axes)
    known = dict.fromkeys([*sweep.figure.axes, *sweep.scale.axes, *own])
    return [axis for axis in known if rows and axis in rows[0]]


def grouped(rows: Iterable[Row], columns: Sequence[str]) -> dict[tuple[Cell, ...], list[Row]]:
    """The rows that have the same values there, in the order in which these come first."""
    groups: dict[tuple[Cell, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def values_of(rows: Iterable[Row], axis: str) -> list[Value]:
    """The values on an axis: numbers by size, names in the order in which they come."""
    values = list(dict.fromkeys(row[axis] for row in rows))
    present = [value for value in values if value is not None]
    return sorted(present) if all(isinstance(value, int | float) for value in present) else present


def seeds(rows: Sequence[Row], axes: Sequence[str]) -> str:
    """How many runs a point is the mean of, of the points that have any."""
    finished = [row for row in rows if row["status"] == "finished"]
    counts = {len(group) for group in grouped(finished, ["line", *axes]).values()}
    if not counts:
        return ""
    if max(counts) == 1:
        return "1 seed"
    fewest, most = min(counts), max(counts)
    return f"mean and one standard deviation of {most if fewest == most else f'{fewest} to {most}'} seeds"


def not_there(rows: Sequence[Row], axes: Sequence[str]) -> str:
    """Which runs are missing or have failed: ``12 of 40 runs missing (all of seed 1; Conv2, seed 0), 1 failed (...)``.

    Returns: nothing where all are finished.
    """
    parts: list[str] = []
    for status in ("missing", "failed"):
        which = [row for row in rows if row["status"] == status]
        if which:
            of_all = "" if parts else f" of {len(rows)} {'run' if len(rows) == 1 else 'runs'}"
            named = "" if len(which) == len(rows) else f" ({named_of(which, rows, axes)})"
            parts.append(f"{len(which)}{of_all} {status}{named}")
    return ", ".join(parts)


def named_of(some: Sequence[Row], rows: Sequence[Row], axes: Sequence[str]) -> str:
    """Some of the rows in few words: first all that there is of a line, of a value, of a seed, or of two of them."""
    left = {id(row) for row in some}
    wanted, columns, names = set(left), ["line", *axes, "seed"], []
    for count in range(1, len(columns)):
        for chosen in itertools.combinations(columns, count):
            for values, group in grouped(rows, chosen).items():
                here = {id(row) for row in group}
                if len(here) > 1 and here <= wanted and here & left and None not in values:
                    names.append(f"all of {', '.join(map(_said, chosen, values))}")
                    left -= here
    names += [run_in_words(row, axes) for row in some if id(row) in left]
    return "; ".join(names if len(names) <= NAMED + 1 else [*names[:NAMED], f"and {len(names) - NAMED} more"])


def run_in_words(row: Row, axes: Sequence[str]) -> str:
    columns = ["line", *axes, "seed"]
    return ", ".join(_said(column, row[column]) for column in columns if row[column] is not None)


def _said(column: str, value: Cell) -> str:
    assert value is not None
    return str(value) if column == "line" else spoken(column, value)
