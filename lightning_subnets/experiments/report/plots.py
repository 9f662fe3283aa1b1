"""The pictures of a sweep, in the paper's form: means over seeds, one standard deviation, horizontal dense lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from lightning_subnets.errors import unknown
from lightning_subnets.experiments.report import layers_plot, point_labels, points
from lightning_subnets.experiments.report.figure_layout import TICK, FigureLayout
from lightning_subnets.experiments.report.point_labels import PointLabel
from lightning_subnets.experiments.report.quantities import quantity, spoken, written
from lightning_subnets.experiments.report.styles import Style, styles
from lightning_subnets.experiments.sweep.figure import Plot, Value
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.experiments.sweep.results import Row

DODGE = 0.36  # between the first and the last line at a name on x, of the distance between names
Panel = tuple[str, list[Row]]


def draw(sweep: Sweep, plot: Plot, rows: Sequence[Row]) -> Figure:
    """
    Args:
        rows: the sweep's results. What is missing or has failed is not drawn, and said under the picture.

    Returns: a panel for each value of ``plot.panels`` and of every axis that is neither this nor x; a line that is not
        run along one of them stands in each of its panels.
    Raises:
        ValueError: if the results have no such axis or number.
    """
    axes_names = points.axes_of(sweep, rows)
    over_layers = plot.y == "units_on_paths"
    for name in (plot.y, plot.panels, None if over_layers else plot.x):
        if name is not None and rows and name not in rows[0]:
            raise unknown("axis or number", name, rows[0])
    panels = _panels(plot, rows, axes_names)
    names = [] if over_layers or plot.x not in axes_names else points.values_of(rows, plot.x)
    categories = [name for name in names if isinstance(name, str)]
    slanted = len(categories) > 0 and _crowded(categories, len(panels))
    room = layers_plot.room(rows) if over_layers else 0.03 * max(map(len, categories)) if slanted else 0.0
    sheet = FigureLayout(len(panels), room=0.3 * (len(panels) > 4) + room, share_x=not over_layers)
    sheet.label("layer" if over_layers else quantity(plot.x).label, quantity(plot.y).label)
    curves = [
        line for line in sweep.lines() if any(row["line"] == line and row.get(plot.x) is not None for row in rows)
    ]
    looks = styles(sweep.figure.lines)
    drawn: dict[str, bool] = {}  # whether as a curve
    labels: list[PointLabel] = []
    for axes, (title, panel) in zip(sheet.axes, panels, strict=True):
        axes.set_title(title, fontsize=10, parse_math=False)
        if over_layers:
            drawn |= dict.fromkeys(layers_plot.draw(axes, panel, looks), True)
            continue
        for line in sweep.lines():
            of_line = [row for row in panel if row["line"] == line and _drawable(row, plot)]
            runs = [row for row in of_line if row[plot.x] is not None]
            if runs:
                dodge = DODGE * (curves.index(line) / max(len(curves) - 1, 1) - 0.5)
                labels += _curve(axes, plot, runs, looks[line], axes_names, categories, dodge)
            elif of_line:
                _horizontal(axes, points.numbers(of_line, plot.y), quantity(plot.y).scale, looks[line])
            if of_line:
                drawn[line] = bool(runs)
    for axes in sheet.axes if not over_layers else ():
        _ticks(axes, plot, names, slanted)
    if over_layers:
        layers_plot.scale(sheet.axes)
    if not drawn:
        for axes in sheet.axes:
            axes.text(0.5, 0.5, "nothing to draw yet", ha="center", va="center", transform=axes.transAxes)
            axes.set(yticks=[], **({} if names else {"xticks": []}))
    handles = [_handle(name, looks[name], drawn[name]) for name in sweep.lines() if name in drawn]
    sheet.finish(sweep.figure.title, notes(sweep, plot, rows), handles)
    point_labels.place(sheet.figure, labels)
    return sheet.figure


def notes(sweep: Sweep, plot: Plot, rows: Sequence[Row]) -> list[tuple[str, bool]]:
    """What stands under a picture, each with whether it warns: of what it is the mean, and what is not in it."""
    axes = points.axes_of(sweep, rows)
    found = [("; ".join(filter(None, [sweep.scale.note, points.seeds(rows, axes)])), False)]
    if missing := points.not_there(rows, axes):
        found.append((missing, True))
    without = [row for row in rows if row["status"] == "finished" and -np.inf in (row.get(plot.x), row[plot.y])]
    if without:
        runs = "1 run" if len(without) == 1 else f"{len(without)} runs"
        found.append(
            (f"not drawn: {runs} without a path from inputs to outputs ({points.named_of(without, rows, axes)})", True)
        )
    return found


def _drawable(row: Row, plot: Plot) -> bool:
    return bool(points.numbers([row], plot.y)) and row[plot.x] != -np.inf


def _panels(plot: Plot, rows: Sequence[Row], axes: Sequence[str]) -> list[Panel]:
    """The title and the rows of each."""
    values = {axis: points.values_of(rows, axis) for axis in axes}
    # Where x was measured, the axes are what a line's points differ in.
    further = axes if plot.y == "units_on_paths" else [axis for axis in axes if plot.x in axes and axis != plot.x]
    split = [axis for axis in axes if axis == plot.panels or (axis in further and len(values[axis]) > 1)]
    split = [axis for axis in split if values[axis]]
    panels = []
    for point in itertools.product(*(values[axis] for axis in split)):
        place = dict(zip(split, point, strict=True))
        here = [row for row in rows if all(row[axis] in (None, value) for axis, value in place.items())]
        panels.append((", ".join(spoken(axis, value) for axis, value in place.items()), here))
    return panels


def _curve(
    axes: Axes,
    plot: Plot,
    rows: Sequence[Row],
    style: Style,
    axes_names: Sequence[str],
    categories: Sequence[str],
    dodge: float,
) -> Iterator[PointLabel]:
    """Draw a line of the figure. Returns: the labels of its points, where x was measured."""
    measured_x = plot.x not in axes_names
    named = [axis for axis in axes_names if axis != plot.panels] if measured_x else [plot.x]
    found = []
    for values, group in points.grouped(rows, named).items():
        name = ", ".join(written(axis, value) for axis, value in zip(named, values, strict=True) if value is not None)
        if isinstance(values[0] if not measured_x else None, str):
            x: points.Measured | None = points.Measured(categories.index(str(values[0])) + dodge, None)
        else:
            x = _scaled(points.measured(points.numbers(group, plot.x)), quantity(plot.x).scale)
        y = _scaled(points.measured(points.numbers(group, plot.y)), quantity(plot.y).scale)
        assert x is not None
        assert y is not None
        found.append((x, y, name))
    found.sort(key=lambda point: point[0].mean)
    axes.errorbar(
        [x.mean for x, _, _ in found],
        [y.mean for _, y, _ in found],
        xerr=[x.deviation or np.nan for x, _, _ in found] if measured_x else None,
        yerr=[y.deviation if y.deviation is not None else np.nan for _, y, _ in found],
        color=style.colour,
        marker=style.marker,
        linestyle=style.dashes,
        markersize=5,
        linewidth=1.4,
        elinewidth=1,
        capsize=2.5,
    )
    return (PointLabel(axes, x.mean, y.mean, name, style.colour) for x, y, name in found if measured_x and name)


def _horizontal(axes: Axes, values: Sequence[float], scale: float, style: Style) -> None:
    level = _scaled(points.measured(values), scale)
    assert level is not None
    axes.axhline(level.mean, color=style.colour, linestyle=style.dashes, linewidth=1.4)
    if level.deviation:
        axes.axhspan(
            level.mean - level.deviation, level.mean + level.deviation, color=style.colour, alpha=0.12, linewidth=0
        )


def _scaled(value: points.Measured | None, scale: float) -> points.Measured | None:
    if value is None:
        return None
    deviation = None if value.deviation is None else scale * value.deviation
    return points.Measured(scale * value.mean, deviation)


def _ticks(axes: Axes, plot: Plot, names: Sequence[Value], slanted: bool) -> None:
    """Room on x for all that is planned, and its names or numbers."""
    numbers = [quantity(plot.x).scale * name for name in names if not isinstance(name, str)]
    if plot.log_x:
        axes.set_xscale("log")
        low, high = (min(numbers), max(numbers)) if numbers else axes.dataLim.intervalx
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 200 * low else (1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    if numbers and plot.log_x:
        axes.set_xlim(0.9 * min(numbers), max(numbers) / 0.9)
    elif numbers:
        edge = 0.05 * ((max(numbers) - min(numbers)) or 1)
        axes.set_xlim(min(numbers) - edge, max(numbers) + edge)
    elif names:
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_xticks(range(len(names)), [str(name) for name in names], fontsize=TICK, parse_math=False)
        if slanted:
            axes.tick_params(axis="x", rotation=30)
            for label in axes.get_xticklabels():
                label.set(horizontalalignment="right", rotation_mode="anchor")
    else:
        axes.margins(x=0.2, y=0.12)  # for the names of points


def _crowded(categories: Sequence[str], panels: int) -> bool:
    """Whether names of some length would meet if they were written side by side."""
    inches = FigureLayout(panels).panel_width / len(categories)
    return max(map(len, categories)) * 0.095 > inches


def _handle(name: str, style: Style, curve: bool) -> Artist:
    marker = style.marker if curve else "none"
    return Line2D([], [], color=style.colour, marker=marker, linestyle=style.dashes, markersize=5, label=name)
