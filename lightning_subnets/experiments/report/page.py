"""The page of a report: one HTML file that contains its pictures, so it opens offline and in an e-mail."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from lightning_subnets import masking
from lightning_subnets.errors import UserError, printable
from lightning_subnets.experiments.report import figure_layout, plots, points, tables
from lightning_subnets.experiments.report.quantities import quantity, rounded
from lightning_subnets.experiments.report.tables import Table
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.graph.diagnostics import Diagnosis, diagnose
from lightning_subnets.run_files import drawing
from lightning_subnets.run_files.run_directory import RunDirectory
from lightning_subnets.run_files.saved_run import SavedRun
from lightning_subnets.training import csv_text
from lightning_subnets.training.csv_text import Row

Picture = tuple[str, str, bytes]  # its path in the report, what it shows in words, and its content
SHOWN = {
    "curves": "accuracy and loss by epoch",
    "layers": "density of each layer, and edges swapped by epoch",
    "widths": "density and units of each layer",
    "rounds": "accuracy by density, at the end of each round of pruning",
}
PACKAGES = ("lightning_subnets", "torch", "torchvision", "lightning")

_TEMPLATES = Environment(  # escapes the texts of page.html
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["base64"] = lambda content: Markup(base64.b64encode(content).decode())
_TEMPLATES.filters["markdown"] = tables.markdown
_TEMPLATES.filters["rounded"] = rounded
# A mark that changes the direction of writing would change what follows it on the page.
_PAGE = _TEMPLATES.overlay(finalize=lambda value: printable(" ".join(value.split())) if type(value) is str else value)


class SweepSection(NamedTuple):
    """The section of a sweep, with its pictures and tables by their paths in the report."""

    name: str  # of its folder in the report
    sweep: Sweep
    runs: list[tuple[str, Row]]  # each run in words, with its results
    files: dict[str, bytes]
    pictures: list[Picture]
    table: Table
    published: bool  # whether the table has results that the paper prints
    missing: str  # which runs are missing or have failed; empty if none
    facts: dict[str, str]  # device, versions and times of the runs


class RunSection(NamedTuple):
    """The section of one run, with its pictures by their paths in the report."""

    name: str
    files: dict[str, bytes]
    pictures: list[Picture]
    table: Table
    summary: Mapping[str, Any] | None  # None if the run is not finished


def sweep_section(name: str, sweep: Sweep, rows: Sequence[Row]) -> SweepSection:
    """Draw and tabulate a sweep."""
    files, axes = dict[str, bytes](), points.axes_of(sweep, rows)
    pictures: list[Picture] = []
    for number, plot in enumerate(sweep.figure.plots, start=1):
        figure, path = plots.draw(sweep, plot, rows), f"{name}/figure{'' if number == 1 else f'-{number}'}"
        for form in ("png", "pdf"):
            files[f"{path}.{form}"] = drawing.as_bytes(figure, form, dpi=figure_layout.DPI)
        shown = f"{quantity(plot.y).label} by {'layer' if plot.y == 'units_on_paths' else quantity(plot.x).label}"
        pictures.append((f"{path}.png", f"{sweep.figure.title}: {shown}", files[f"{path}.png"]))
    table = tables.of_sweep(sweep, rows)  # after the plots, which say which of their quantities the results lack
    runs = [(points.describe_run(row, axes), row) for row in rows]
    missing, published = points.incomplete(rows, axes), "published_percent" in table.data[0]
    section = SweepSection(name, sweep, runs, files, pictures, table, published, missing, _facts(rows))
    files[f"{name}/table.csv"] = csv_text.table(table.data).encode()
    text = _TEMPLATES.get_template("table.md").render(section=section, table=tables.as_markdown(table))
    files[f"{name}/table.md"] = text.encode()
    return section


def run_section(run: Path, summary: Mapping[str, Any] | None) -> RunSection:
    """Draw a run's pictures as PNG and PDF, also for a run that is not finished, and tabulate its summary."""
    layers, diagnosis = _layers(run)
    evaluated_on = (summary or {}).get("validated_on", "validation set")
    figures = drawing.figures_of(run, layers=layers, evaluated_on=evaluated_on, diagnosis=diagnosis)
    name, files = f"{run.parent.name}, {run.name}", dict[str, bytes]()
    pictures: list[Picture] = []
    for shown, figure in sorted(figures.items()):
        for form in ("png", "pdf"):
            files[f"{shown}.{form}"] = drawing.as_bytes(figure, form)
        pictures.append((f"{shown}.png", f"{name}: {SHOWN[shown]}", files[f"{shown}.png"]))
    table = tables.of_runs({(run.parent.name, run.name): summary})
    return RunSection(name, files, pictures, table, summary)


def render(
    title: str,
    sweeps: Sequence[SweepSection],
    runs: Table | None,
    run: RunSection | None,
    unfinished: Mapping[str, str] = {},
) -> str:
    """Return the page with the sections of sweeps, a table of other runs, and the section of one run.

    ``unfinished`` says of each run of the table without results why it has none.
    """
    source = tables.PUBLISHED_SOURCE
    sections = {"sweeps": sweeps, "runs": runs, "run": run, "unfinished": unfinished}
    return _PAGE.get_template("page.html").render(title=title, source=source, **sections)


def _layers(run: Path) -> tuple[list[str], Diagnosis | None]:
    """Return the masked layers in the network's order, and the diagnosis of the last checkpoint's masks.

    If the checkpoint or the data are gone, return the layers that the metrics name, and no diagnosis.
    """
    metrics = drawing.read_metrics(run / "metrics.csv")
    layers = [name.removeprefix("density/") for name in metrics if name.startswith("density/")]
    diagnosis = None
    if checkpoint := RunDirectory(run).last_checkpoint:
        with suppress(UserError):
            saved = SavedRun(str(checkpoint))
            network = saved.module().network
            layers = list(masking.masked_weights(network))
            if masking.density(network) < 1.0:
                diagnosis = diagnose(network, saved.data().image_shape)
    return layers, diagnosis


def _facts(rows: Sequence[Row]) -> dict[str, str]:
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
        "run time": f"{timedelta(seconds=round(seconds))}, summed over the runs",
    }
    return {name: fact for name, fact in facts.items() if fact}
