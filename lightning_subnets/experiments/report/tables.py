"""Tables of a sweep's points and of other runs, with the results that papers print."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightning_subnets.errors import printable
from lightning_subnets.experiments.report import points
from lightning_subnets.experiments.report.quantities import quantity, rounded, written
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.training.csv_text import Cell, Row


class Published(NamedTuple):
    """A result that a paper prints, and what a run must be to be compared with it."""

    percent: float
    total: int  # weights that can be masked, which tell the networks apart
    method: str
    weights: str | None
    density: float

    def is_of(self, summary: Mapping[str, object]) -> bool:
        """Return whether the run of a summary is the experiment of this result, for however many epochs."""
        same = all(summary.get(key) == getattr(self, key) for key in ("total", "method", "weights"))
        density = summary.get("density")
        near = isinstance(density, float | int) and abs(density - self.density) < 1e-3
        return same and near and summary.get("data") == "ImageNet"


def _subnetwork(percent: float, total: int, weights: str) -> Published:
    return Published(percent, total, "EdgePopup", weights, 0.3)


def _dense(percent: float, total: int) -> Published:
    return Published(percent, total, "Dense", None, 1.0)


# Top-1 accuracy on ImageNet after PUBLISHED_EPOCHS, of shipped configs: Ramanujan et al. 2020, Table 2.
_RN34, _RN50, _RN101, _WRN50 = 21_779_648, 25_502_912, 44_442_816, 68_814_016
PUBLISHED = (
    _subnetwork(61.71, _RN50, "kaiming_normal"),
    _subnetwork(66.15, _RN101, "kaiming_normal"),
    _subnetwork(67.95, _WRN50, "kaiming_normal"),
    _subnetwork(68.6, _RN50, "signed_constant"),
    _subnetwork(72.3, _RN101, "signed_constant"),
    _subnetwork(73.3, _WRN50, "signed_constant"),
    _dense(73.3, _RN34),
    _dense(76.1, _RN50),
    _dense(78.1, _WRN50),
)
PUBLISHED_EPOCHS = 100
PUBLISHED_SOURCE = "Ramanujan et al. 2020, Table 2"
_SUMMARY_COLUMNS = {  # title, format and factor of each key of summary.json
    "network": ("network", "", 1),
    "data": ("data", "", 1),
    "method": ("method", "", 1),
    "weights": ("weights", "", 1),
    "density": ("density (%)", "", 100),
    "kept": ("weights kept", ",.0f", 1),
    "file_bytes": ("file (kB)", ",.1f", 1e-3),
    "best_val_accuracy": ("best validation (%)", ".2f", 100),
    "best_epoch": ("after epoch", "", 1),
    "test_accuracy": ("test accuracy, last (%)", ".2f", 100),
    "epochs": ("epochs", "", 1),
    "seed": ("seed", "", 1),
    "seconds": ("seconds", ",.0f", 1),
}


class Table(NamedTuple):
    """A table for programs and for people."""

    data: list[Row]  # the rows of the CSV file
    columns: list[str]  # the titles that people read
    cells: list[list[str]]  # the texts that people read, one list for each row of ``data``


def of_sweep(sweep: Sweep, rows: Sequence[Row]) -> Table:
    """Return a row for each point: seeds, accuracy in per cent with its standard deviation, weights kept.

    A result that the paper prints for the point is next to the measured one. The difference, measured minus published,
    is given at the scale ``paper`` only, because other scales use other data or train for a shorter time.
    """
    axes = points.axes_of(sweep, rows)
    drawn = ((plot.y,) if plot.y == "units_on_paths" else (plot.x, plot.y) for plot in sweep.figure.plots)
    plotted = dict.fromkeys(name for names in drawn for name in names)
    means = [name for name in plotted if name not in ("line", "test_accuracy", "kept", "units_on_paths", *axes)]
    titles = ["density" if axis == "density" else quantity(axis).label for axis in axes]
    columns = ["", *titles, "seeds", "test accuracy (%)", "weights kept", *(quantity(name).label for name in means)]
    table = Table([], columns, [])
    for (line, *values), group in points.grouped(rows, ["line", *axes]).items():
        finished, planned = sum(run["status"] == "finished" for run in group), len(group)
        accuracies = points.numbers(group, "test_accuracy")
        accuracy, deviation = points.measured(accuracies, 100) if accuracies else (None, None)
        row: Row = {"line": line, **dict(zip(axes, values, strict=True)), "planned": planned, "finished": finished}
        row |= {"test_accuracy_percent": accuracy, "deviation": deviation}
        found = {name: points.numbers(group, name) for name in ("kept", *means)}
        row |= {name: points.measured(each).mean if each else None for name, each in found.items()}
        row["published_percent"] = published_for(sweep.figure.published, str(line), values)
        if sweep.scale_name == "paper":
            row["difference"] = _minus(accuracy, row["published_percent"])
        table.data.append(row)
        cells = ["" if value is None else written(axis, value) for axis, value in zip(axes, values, strict=True)]
        cells += [str(finished) if finished == planned else f"{finished} of {planned}"]
        plus_minus = "" if deviation is None else f" ± {deviation:.2f}"
        cells += [_text(accuracy, ".2f") + plus_minus + _share(len(accuracies), finished), _text(row["kept"], ",.0f")]
        cells += [_text(row[name], "", quantity(name).scale) + _share(len(found[name]), finished) for name in means]
        table.cells.append([str(line), *cells])
    if all(row["published_percent"] is None for row in table.data):
        for row in table.data:
            row.pop("published_percent")
            row.pop("difference", None)
    elif sweep.scale_name == "paper":
        _add_published(table)
    else:
        table.columns.append("in the paper, not on these data (%)")
        for row, cells in zip(table.data, table.cells, strict=True):
            cells.append(_text(row["published_percent"], "g"))
    return table


def published_for(published: Mapping[str, object], line: str, values: Sequence[Cell]) -> float | None:
    """Return the published result of a line's point; a value is None on an axis that the line does not vary along."""
    present, found = [value for value in values if value is not None], published.get(line)
    if isinstance(found, Mapping):
        found = found.get(present[0]) if len(present) == 1 else None
    elif present:  # one number is for a line that does not vary
        found = None
    return float(found) if isinstance(found, int | float) else None


def of_runs(summaries: Mapping[tuple[str, str], Mapping[str, Cell] | None]) -> Table:
    """Return a row for each run, with the result that a paper prints if the run is the same experiment.

    The difference is given if the run is as long as the paper's. People read the columns that have a value.

    Args:
        summaries: each run's ``summary.json`` by name and version, None if the run is not finished.
    """
    table = Table([], ["name", "version", "status", *(title for title, _, _ in _SUMMARY_COLUMNS.values())], [])
    for (name, version), summary in summaries.items():
        found = summary or {}
        row: Row = {"name": name, "version": version, **{key: found.get(key) for key in _SUMMARY_COLUMNS}}
        row["published_percent"] = next((each.percent for each in PUBLISHED if each.is_of(found)), None)
        accuracy = row["test_accuracy"] if row["epochs"] == PUBLISHED_EPOCHS else None
        percent = 100 * accuracy if isinstance(accuracy, int | float) else None
        row["difference"] = _minus(percent, row["published_percent"])
        table.data.append(row)
        cells = [_text(row[key], form, scale) for key, (_, form, scale) in _SUMMARY_COLUMNS.items()]
        table.cells.append([name, version, "not finished" if summary is None else "", *cells])
    _add_published(table)
    shown = [0, 1, *(at for at in range(2, len(table.columns)) if any(cells[at] for cells in table.cells))]
    return Table(
        table.data, [table.columns[at] for at in shown], [[cells[at] for at in shown] for cells in table.cells]
    )


def _add_published(table: Table) -> None:
    table.columns.extend(["published (%)", "measured - published"])
    for row, cells in zip(table.data, table.cells, strict=True):
        cells += [_text(row["published_percent"], "g"), _text(row["difference"], "+.2f")]


def _text(value: Cell, form: str, scale: float = 1) -> str:
    """Write a value of a cell; a number without a form is ``rounded``."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{scale * value:{form}}" if form else rounded(scale * value)


def _share(numbers: int, finished: int) -> str:
    """Say of a mean that it leaves out some finished runs, whose values are infinite or no numbers."""
    return f" ({numbers} of {finished} seeds)" if 0 < numbers < finished else ""


def _minus(measured: Cell, published: Cell) -> float | None:
    both = isinstance(measured, int | float) and isinstance(published, int | float)
    return measured - published if both else None  # type: ignore[operator]


def as_markdown(table: Table) -> str:
    """Return the rounded cells of a table as a table in Markdown."""
    head, *rows = ([markdown(cell) for cell in row] for row in (table.columns, *table.cells))
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def markdown(text: str) -> str:
    """Escape a text from a file for a line of Markdown, so that it is not HTML, a link or the end of a cell.

    An address that is written out stays one, and GitHub shows it as a link to itself.
    """
    return re.sub(r"[\\`*<>|\[\]]", r"\\\g<0>", printable(" ".join(text.splitlines())))
