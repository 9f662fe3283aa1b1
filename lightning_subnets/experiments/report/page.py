"""The page of a report: one HTML file with the pictures in it, which opens without a network and in a mail."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from lightning_subnets.experiments.report import figure_layout, plots, points, tables
from lightning_subnets.experiments.report.finding import Summary
from lightning_subnets.experiments.report.tables import Table
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.experiments.sweep.results import Row

PACKAGES = ("lightning_subnets", "torch", "torchvision", "lightning")

_TEMPLATES = Environment(  # escapes the texts of page.html
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {"base64": lambda content: base64.b64encode(content).decode(), "markdown": tables.markdown}


class SweepSection(NamedTuple):
    """The section of a sweep.

    Attributes:
        name: its folder in the report.
        sweep: the figure at one of its scales.
        runs: each run in words, with its results.
        files: pictures and tables by their paths in the report.
        table: its points.
        published: whether the table has results that the paper prints.
        missing: which runs are missing or have failed; empty if none.
        facts: where the numbers come from.
    """

    name: str
    sweep: Sweep
    runs: list[tuple[str, Row]]
    files: dict[str, bytes]
    table: Table
    published: bool
    missing: str
    facts: dict[str, str]


class RunSection(NamedTuple):
    """The section of one run.

    Attributes:
        name: of the run.
        files: its pictures by their paths in the report.
        table: its row in a table of runs.
        summary: its summary, None if it is not finished.
    """

    name: str
    files: dict[str, bytes]
    table: Table
    summary: Summary | None


def sweep_section(name: str, sweep: Sweep, rows: Sequence[Row]) -> SweepSection:
    """Draw and tabulate a sweep."""
    files, axes, table = {}, points.axes_of(sweep, rows), tables.of_sweep(sweep, rows)
    for number, plot in enumerate(sweep.figure.plots, start=1):
        figure = plots.draw(sweep, plot, rows)
        for form in ("png", "pdf"):
            files[f"{name}/figure{'' if number == 1 else f'-{number}'}.{form}"] = figure_layout.as_bytes(figure, form)
    runs = [(points.describe_run(row, axes), row) for row in rows]
    missing, published = points.incomplete(rows, axes), "published_percent" in table.data[0]
    section = SweepSection(name, sweep, runs, files, table, published, missing, _facts(rows))
    files[f"{name}/table.csv"] = tables.as_csv(table).encode()
    text = _TEMPLATES.get_template("table.md").render(section=section, table=tables.as_markdown(table))
    files[f"{name}/table.md"] = text.encode()
    return section


def render(title: str, sweeps: Sequence[SweepSection], runs: Table | None, run: RunSection | None) -> str:
    """Return the page with the sections of sweeps, a table of other runs, and the section of one run."""
    source = tables.PUBLISHED_SOURCE
    return _TEMPLATES.get_template("page.html").render(title=title, sweeps=sweeps, runs=runs, run=run, source=source)


def _facts(rows: Sequence[Row]) -> dict[str, str]:
    """Return how many runs are finished, on what device, with which versions, when, and the time that they took."""
    finished = [row for row in rows if row["status"] == "finished"]

    def different(column: str) -> list[str]:
        return list(dict.fromkeys(str(row[column]) for row in finished if row[column]))

    dates = sorted({date[:10] for date in different("finished")})
    seconds = sum(points.numbers(finished, "seconds"))
    facts = {
        "runs": f"{len(finished)} of {len(rows)}",
        "device": "; ".join(different("device")),
        "versions": ", ".join(f"{package} {version}" for package in PACKAGES for version in different(package)),
        "finished": " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "",
        "run time": f"{timedelta(seconds=round(seconds))}, if the runs were one after another",
    }
    return {name: fact for name, fact in facts.items() if fact}
