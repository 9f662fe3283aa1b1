"""Tables of a sweep's points and of ordinary runs, beside what a paper prints for them."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightning_subnets.experiments.report import points, published
from lightning_subnets.experiments.report.points import Cell
from lightning_subnets.experiments.report.quantities import quantity, written
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.experiments.sweep.results import Row
from lightning_subnets.training import csv_text

# Columns of results whose means are numbers of their own in a sweep's table.
FIXED = ("test_accuracy", "kept", "units_on_paths")


class Table(NamedTuple):
    """
    Attributes:
        data: a row of numbers and names, in the order of the CSV.
        columns: the titles for people.
        cells: what people read, a row for each of the data.
    """

    data: list[Row]
    columns: list[str]
    cells: list[list[str]]


def of_sweep(sweep: Sweep, rows: Sequence[Row]) -> Table:
    """A row for each point: seeds, accuracy in per cent and its standard deviation, weights kept.

    The paper's figure stands beside it where there is one, and the difference, measured minus published, at the scale
    ``paper`` alone: the other scales run on other data or for a shorter time.
    """
    axes = points.axes_of(sweep, rows)
    further = dict.fromkeys(name for plot in sweep.figure.plots for name in (plot.x, plot.y))
    means = [name for name in further if name not in (*FIXED, *axes)]
    to_compare = sweep.scale_name == "paper"
    points_of = points.grouped(rows, ["line", *axes])

    def printed_of(line: Cell, values: Sequence[Cell]) -> float | None:
        return printed_for(sweep.figure.published, str(line), [value for value in values if value is not None])

    printed = any(printed_of(line, values) is not None for line, *values in points_of)
    data: list[Row] = []
    for (line, *values), group in points_of.items():
        accuracy = points.measured([100 * each for each in points.numbers(group, "test_accuracy")])
        row: Row = {"line": line, **dict(zip(axes, values, strict=True)), "planned": len(group)}
        row["finished"] = sum(run["status"] == "finished" for run in group)
        row |= {"test_accuracy_percent": accuracy and accuracy.mean, "deviation": accuracy and accuracy.deviation}
        for name in ("kept", *means):
            found = points.measured(points.numbers(group, name))
            row[name] = found and found.mean
        if printed:
            row["published_percent"] = there = printed_of(line, values)
            if to_compare:
                row["difference"] = accuracy.mean - there if accuracy and there is not None else None
        data.append(row)
    columns = [
        "",
        *("density" if axis == "density" else quantity(axis).label for axis in axes),
        "seeds",
        "test accuracy (%)",
    ]
    columns += ["weights kept", *(quantity(name).label for name in means)]
    if printed:
        columns += ["published (%)", "measured - published"] if to_compare else ["in the paper, not on these data (%)"]
    return Table(data, columns, [_cells(row, axes, means) for row in data])


def printed_for(all_printed: Mapping[str, object], line: str, values: Sequence[Cell]) -> float | None:
    """What is published for a point: of a line, or by the value of its only axis; None where nothing is."""
    printed = all_printed.get(line)
    if isinstance(printed, Mapping):
        printed = printed.get(values[0]) if len(values) == 1 else None
    elif values:  # of the whole line, which is run along nothing
        printed = None
    return float(printed) if isinstance(printed, int | float) else None


def _cells(row: Row, axes: Sequence[str], means: Sequence[str]) -> list[str]:
    cells = [str(row["line"]), *("" if (value := row[axis]) is None else written(axis, value) for axis in axes)]
    finished, planned = row["finished"], row["planned"]
    cells.append(f"{finished:g}" if finished == planned else f"{finished:g} of {planned:g}")
    accuracy = _number(row["test_accuracy_percent"], ".2f")
    cells.append(accuracy if row["deviation"] is None else f"{accuracy} ± {row['deviation']:.2f}")
    cells += [_number(row["kept"], ",.0f"), *(_number(row[name], ".4g") for name in means)]
    return cells + [_number(row[name], form) for name, form in _PUBLISHED.items() if name in row]


_PUBLISHED = {"published_percent": "g", "difference": "+.2f"}


def of_runs(summaries: Mapping[tuple[str, str], Mapping[str, Cell] | None]) -> Table:
    """A row for each run, by name and version, from its ``summary.json``, None where it is not finished.

    What is published for a shipped config stands beside it, and the difference where the run is as long as the paper's.
    """
    data: list[Row] = []
    for (name, version), summary in summaries.items():
        found = summary or {}
        row: Row = {"name": name, "version": version, **{key: found.get(key) for key in _OF_RUNS}}
        on_imagenet = summary is None or found.get("data") == "ImageNet"
        printed, accuracy = published.TOP1.get(name) if on_imagenet else None, row["test_accuracy"]
        row["published_percent"] = printed
        whole = printed is not None and row["epochs"] == published.EPOCHS and isinstance(accuracy, int | float)
        row["difference"] = 100 * accuracy - printed if whole else None  # type: ignore[operator]
        data.append(row)
    columns = ["name", "version", *(title for title, _ in _OF_RUNS.values()), "published (%)", "measured - published"]
    cells = [
        [
            str(row["name"]),
            str(row["version"]),
            *(_number(_shown(key, row[key]), form) for key, (_, form) in _OF_RUNS.items()),
            *(_number(row[key], form) for key, form in _PUBLISHED.items()),
        ]
        for row in data
    ]
    for place, summary in enumerate(summaries.values()):
        if summary is None:
            cells[place][2] = "not finished"
    return Table(data, columns, cells)


_OF_RUNS = {
    "method": ("method", ""),
    "weights": ("weights", ""),
    "kept": ("weights kept", ",.0f"),
    "test_accuracy": ("test accuracy (%)", ".2f"),
    "epochs": ("epochs", "g"),
    "seed": ("seed", "g"),
    "seconds": ("seconds", ",.0f"),
}


def _shown(key: str, cell: Cell) -> Cell:
    return 100 * cell if key == "test_accuracy" and isinstance(cell, int | float) else cell


def _number(cell: Cell, form: str) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else f"{cell:{form}}"


def as_csv(table: Table) -> str:
    return csv_text.table(table.data)


def as_markdown(table: Table) -> str:
    head, *rows = ([markdown(cell) for cell in row] for row in (table.columns, *table.cells))
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def markdown(text: str) -> str:
    """Escape a text from a file for a line of Markdown, so that it is not HTML, a link or the end of a cell."""
    return re.sub(r"[\\`*<>|\[\]]", r"\\\g<0>", " ".join(text.splitlines()))


def as_html(table: Table) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"

    body = "".join(row("td", cells) for cells in table.cells)
    return (
        f'<div class="wide"><table>\n<thead>{row("th", table.columns)}</thead>\n<tbody>{body}</tbody></table></div>\n'
    )
