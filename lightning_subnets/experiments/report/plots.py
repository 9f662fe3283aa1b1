"""The figures of a sweep: means over seeds with one standard deviation, and horizontal lines for what does not vary."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from lightning_subnets.errors import unknown
from lightning_subnets.experiments.report import layers_plot, point_labels, points
from lightning_subnets.experiments.report.figure_layout import (
    COLUMNS,
    LETTERS,
    LINES,
    TEXT,
    FigureLayout,
    Style,
    styles,
)
from lightning_subnets.experiments.report.quantities import quantity, rounded, with_axis, written
from lightning_subnets.experiments.sweep.figure import Plot, Value
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.run_files.drawing import boxes_for_missing_letters, shortened
from lightning_subnets.training.csv_text import Row

DODGE = 0.36  # distance between the first and the last line at a name on x, where names are 1 apart
FRONTIER: Style = {"color": "#BBBBBB", "linewidth": 6, "alpha": 0.6}
LONELY = 20  # one in so many points may be left out of a picture if it is far below all others


class Panel(NamedTuple):
    """A part of a figure."""

    title: str
    rows: list[Row]
    lines: list[str]  # that are drawn in it


@boxes_for_missing_letters()
def draw(sweep: Sweep, plot: Plot, rows: Sequence[Row]) -> Figure:
    """Draw one plot of a sweep's figure.

    There is a panel for each value of ``plot.panels``, and of every other axis that is not x. A line that does not vary
    along such an axis is in each of its panels. More lines than there are colours are shared out among several panels,
    and the first line, to which the others are compared, is in each. Runs that are missing or have failed are named
    below the panels.

    Raises:
        UserError: if the results have no such axis or number.
    """
    axes_names = points.axes_of(sweep, rows)
    over_layers = plot.y == "units_on_paths"
    for name in (plot.y, plot.panels, None if over_layers else plot.x):
        if name is not None and rows and name not in rows[0]:
            raise unknown("axis or number", name, rows[0])
    panels = _panels(plot, rows, axes_names, list(sweep.lines()))
    looks = styles(sweep.figure.lines)
    layout, drawn = (
        _draw_layers(plot, rows, panels, looks) if over_layers else _draw_curves(sweep, plot, rows, panels, looks)
    )
    for axes, panel in zip(layout.axes, panels, strict=True):
        layout.entitle(axes, panel.title)
        if not drawn:
            done = bool(rows) and all(row["status"] == "finished" for row in rows)
            words = f"no run has measured {plot.y}" if done else "nothing to draw yet"
            axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
            axes.set(yticks=[])
    handles = [
        Line2D([], [], **looks[line] | ({} if drawn[line] else {"marker": "none"}), markersize=5, label=line)
        for line in sweep.lines()
        if line in drawn and plot.x != "line"
    ]
    if plot.frontier and drawn:
        of_x = quantity(plot.x).label.partition(" (")[0]
        handles.append(Line2D([], [], **FRONTIER, label=f"best of all lines up to each {of_x}"))
    notes = ["; ".join([sweep.scale.note, *points.seeds(rows, axes_names)])]
    if not over_layers:
        notes += _below(plot, rows, axes_names, layout.axes[0].get_ylim()[0])
    layout.finish(sweep.figure.title, notes, _warnings(plot, rows, axes_names), handles)
    point_labels.place(layout)
    return layout.figure


def _warnings(plot: Plot, rows: Sequence[Row], axes: Sequence[str]) -> list[str]:
    found = [missing] if (missing := points.incomplete(rows, axes)) else []
    left_out: dict[str, list[Row]] = {}
    for row in rows:
        values = [value for value in (row.get(plot.x), row[plot.y]) if isinstance(value, float)]
        if row["status"] == "finished" and not all(map(math.isfinite, values)):
            why = "no path from inputs to outputs" if -math.inf in values else "infinite or no number"
            left_out.setdefault(why, []).append(row)
    return found + [f"{why}, so left out: {points.describe(some, axes)}" for why, some in left_out.items()]


def _below(plot: Plot, rows: Sequence[Row], axes: Sequence[str], bottom: float) -> list[str]:
    """Return a sentence on the points that are below the picture, if any."""
    groups = [group for group in points.grouped(rows, ["line", *axes]).values() if points.numbers(group, plot.y)]
    means = [points.measured(points.numbers(group, plot.y), quantity(plot.y).scale).mean for group in groups]
    said = [
        f"{points.describe_run(group[0] | {'seed': None}, axes)}: {rounded(mean)}"
        for group, mean in zip(groups, means, strict=True)
        if mean < bottom
    ]
    return [f"{quantity(plot.y).label}, below the picture: {points.first_few(said)}"] if said else []


def _panels(plot: Plot, rows: Sequence[Row], axes: Sequence[str], lines: Sequence[str]) -> list[Panel]:
    """Return the panels of a plot."""
    values = {axis: points.values_of(rows, axis) for axis in axes}
    # If x was measured, the points of a line differ in the axes, and only ``plot.panels`` is split.
    of_points = plot.x == "line" or plot.x in axes
    further = axes if plot.y == "units_on_paths" else [axis for axis in axes if of_points and axis != plot.x]
    split = [axis for axis in axes if values[axis] and (axis == plot.panels or (axis in further and values[axis][1:]))]
    first, others = list(lines[:1]), [line for line in lines[1:] if any(row["line"] == line for row in rows)]
    shares = 1 if plot.x == "line" else max(1, math.ceil(len(others) / (LINES - 1)))
    panels = []
    for point in itertools.product(*(values[axis] for axis in split)):
        place = dict(zip(split, point, strict=True))
        title = ", ".join(with_axis(axis, value) for axis, value in place.items())
        here = [row for row in rows if all(row[axis] in (None, value) for axis, value in place.items())]
        for share in np.array_split(others, shares):
            panels.append(Panel(title, here, first + share.tolist()))
    return panels


def _draw_layers(
    plot: Plot, rows: Sequence[Row], panels: Sequence[Panel], looks: Mapping[str, Style]
) -> tuple[FigureLayout, dict[str, bool]]:
    layout = FigureLayout(len(panels), extra_height=layers_plot.label_height(rows), share_x=False, columns=1)
    layout.label("layer", quantity(plot.y).label)
    drawn = list[str]()
    for axes, panel in zip(layout.axes, panels, strict=True):
        drawn += layers_plot.draw(axes, [row for row in panel.rows if row["line"] in panel.lines], looks)
    layers_plot.set_scale(layout.axes)
    return layout, dict.fromkeys(drawn, True)


def _draw_curves(
    sweep: Sweep, plot: Plot, rows: Sequence[Row], panels: Sequence[Panel], looks: Mapping[str, Style]
) -> tuple[FigureLayout, dict[str, bool]]:
    """Return the layout, and for each line that is drawn whether it is a curve and not a horizontal line."""
    axes_names = [*points.axes_of(sweep, rows), *(["line"] if plot.x == "line" else [])]
    on_x = points.values_of(rows, plot.x) if plot.x in axes_names else []
    names = [name for name in on_x if isinstance(name, str)]
    alike = len({panel.title for panel in panels}) == 1  # they differ in lines only
    layout = FigureLayout(len(panels), x_names=names, columns=1 if alike else COLUMNS)
    layout.label(quantity(plot.x).label, quantity(plot.y).label)
    drawn = dict[str, bool]()
    curves = list(dict.fromkeys(str(row["line"]) for row in rows if row[plot.x] is not None))
    fronts, heights = list[_Point](), list[float]()
    for axes, panel in zip(layout.axes, panels, strict=True):
        found = dict[str, list[_Point]]()
        for line in sweep.lines():
            of_line = [row for row in panel.rows if row["line"] == line and points.numbers([row], plot.y)]
            runs = [row for row in of_line if isinstance(row[plot.x], str) or points.numbers([row], plot.x)]
            if runs:
                shift = 0 if plot.x == "line" else DODGE * (curves.index(line) / max(len(curves) - 1, 1) - 0.5)
                positions = {name: place + shift for place, name in enumerate(names)}
                found[line] = _points(plot, runs, axes_names, positions)
            elif of_line and line not in curves:
                level = points.measured(points.numbers(of_line, plot.y), quantity(plot.y).scale)
                heights.append(level.mean)
                if line in panel.lines:
                    _horizontal(axes, level, looks[line])
            else:
                continue
            drawn[line] = bool(runs)
        everything = [point for its in found.values() for point in its]
        labelled = _frontier(everything) if plot.frontier else everything
        heights += [point.y.mean for point in everything]
        for line, its in found.items():
            if line in panel.lines:
                _curve(axes, its, looks[line], labelled)
        if plot.frontier:
            _draw_frontier(axes, labelled)
            fronts += labelled
        _set_ticks(axes, plot, on_x, layout.slanted)
    if fronts:
        # Points far below the fronts would hide how the others differ.
        worst, best = (extreme(point.y.mean for point in fronts) for extreme in (min, max))
        low, high = layout.axes[0].get_ylim()
        if best > worst:
            low = max(low, worst - 4 * (best - worst))
            layout.axes[0].set_ylim(low, min(high, best + 0.2 * (best - low)))
    elif (lowest := _lowest_shown(heights)) is not None:
        layout.axes[0].set_ylim(bottom=lowest)
    return layout, drawn


def _lowest_shown(heights: Sequence[float]) -> float | None:
    """Return a limit of y below which at most one point in LONELY lies, if the gap to the others exceeds their span."""
    means = sorted(heights)
    for lowest, lower in zip(means[1:][: len(means) // LONELY], means, strict=False):
        apart = means[-1] - lowest
        if lowest - lower > apart > 0:
            return lowest - 0.1 * apart
    return None


class _Point(NamedTuple):
    x: points.Measured
    y: points.Measured
    label: str


def _points(plot: Plot, rows: Sequence[Row], axes_names: Sequence[str], positions: Mapping[str, float]) -> list[_Point]:
    """Return the points of one line in a panel, from left to right; they have labels if x was measured.

    Names on x are at ``positions``.
    """
    measured_x = plot.x not in axes_names
    varied = [axis for axis in axes_names if axis != plot.panels] if measured_x else [plot.x]
    found = []
    for values, group in points.grouped(rows, varied).items():
        label = ", ".join(written(axis, value) for axis, value in zip(varied, values, strict=True) if value is not None)
        y = points.measured(points.numbers(group, plot.y), quantity(plot.y).scale)
        if not measured_x and isinstance(values[0], str):
            x = points.Measured(positions[values[0]], None)
        else:
            x = points.measured(points.numbers(group, plot.x), quantity(plot.x).scale)
        found.append(_Point(x, y, label if measured_x else ""))
    return sorted(found, key=lambda point: point.x.mean)


def _curve(axes: Axes, line: Sequence[_Point], look: Style, labelled: Sequence[_Point]) -> None:
    axes.errorbar(
        [point.x.mean for point in line],
        [point.y.mean for point in line],
        # Only the deviation of a measured x is above 0: the runs of a point share its place on an axis.
        xerr=[point.x.deviation or np.nan for point in line],
        yerr=[np.nan if point.y.deviation is None else point.y.deviation for point in line],
        **look,
        markersize=5,
        linewidth=1.4,
        elinewidth=1,
        capsize=2.5,
    )
    for point in line:
        if point.label and point in labelled:
            point_labels.add(axes, point.x.mean, point.y.mean, point.label, look["color"])


def _frontier(found: Sequence[_Point]) -> list[_Point]:
    """Return the points with a larger y than all points of at most their x, from left to right."""
    best: list[_Point] = []
    for point in sorted(found, key=lambda point: (point.x.mean, -point.y.mean)):
        if not best or point.y.mean > best[-1].y.mean:
            best.append(point)
    return best


def _draw_frontier(axes: Axes, best: Sequence[_Point]) -> None:
    """Draw the largest y of all points up to each x."""
    axes.step(
        [point.x.mean for point in best],
        [point.y.mean for point in best],
        where="post",
        zorder=0,
        **FRONTIER,
    )


def _horizontal(axes: Axes, level: points.Measured, look: Style) -> None:
    axes.axhline(level.mean, color=look["color"], linestyle=look["linestyle"], linewidth=1.4)
    if level.deviation:
        low, high = level.mean - level.deviation, level.mean + level.deviation
        axes.axhspan(low, high, color=look["color"], alpha=0.12, linewidth=0)


def _set_ticks(axes: Axes, plot: Plot, on_x: Sequence[Value], slanted: bool) -> None:
    """Make x wide enough for all planned points, and label their names or numbers."""
    numbers = [quantity(plot.x).scale * value for value in on_x if not isinstance(value, str)]
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
    elif on_x:
        axes.set_xlim(-0.5, len(on_x) - 0.5)
        names = [shortened(str(name), LETTERS["x"]) for name in on_x]
        axes.set_xticks(range(len(on_x)), names, fontsize=TEXT, parse_math=False)
        if slanted:
            axes.tick_params(axis="x", rotation=30)
            for label in axes.get_xticklabels():
                label.set(horizontalalignment="right", rotation_mode="anchor")
    else:
        axes.margins(x=0.2, y=0.12)  # leaves space for the labels of points
