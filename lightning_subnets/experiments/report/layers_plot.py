"""The plot of a network's width by layer: units on paths of kept weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from lightning_subnets.experiments.report import points
from lightning_subnets.experiments.report.figure_layout import TEXT, Style
from lightning_subnets.run_files.drawing import layer_names
from lightning_subnets.training.csv_text import Row

SHOWN = 20  # names of layers on the x axis, at most
DECADES = 1.5  # units that span more decades are drawn on a logarithmic scale


def draw(axes: Axes, rows: Sequence[Row], looks: Mapping[str, Style]) -> list[str]:
    """Draw each line's mean over seeds, with one standard deviation as a band; return the lines that have runs."""
    layers = _layers(rows)
    every = max(math.ceil(len(layers) / SHOWN), 1)
    drawn = []
    for line, look in looks.items():
        runs = [units for row in rows if row["line"] == line and (units := _units(row))]
        values = [[run[layer] for run in runs if layer in run] for layer in layers]
        places = [place for place, units in enumerate(values) if units]
        if not places:
            continue
        found = [points.measured(values[place]) for place in places]
        mean = np.array([units.mean for units in found])
        deviation = np.array([math.nan if units.deviation is None else units.deviation for units in found])
        axes.plot(places, mean, **look, markersize=4, markevery=every, linewidth=1.2)
        low, high = np.maximum(mean - deviation, 0), mean + deviation
        axes.fill_between(places, low, high, color=look["color"], alpha=0.15, linewidth=0)
        drawn.append(line)
    shown = range(0, len(layers), every)
    names = layer_names(layers)
    axes.set_xticks(shown, [names[place] for place in shown], rotation=90, fontsize=TEXT, parse_math=False)
    return drawn


def set_scale(panels: Sequence[Axes]) -> None:
    """Make y logarithmic if the units span decades, and linear around 0 if some layer has none."""
    means = np.array([y for axes in panels for line in axes.lines for y in np.asarray(line.get_ydata(), dtype=float)])
    positive = means[means > 0]
    if len(positive) == 0 or positive.max() < 10**DECADES * positive.min():
        panels[0].set_ylim(bottom=0)
        return
    for axes in panels:
        if len(positive) == len(means):
            axes.set_yscale("log")
        else:
            axes.set_yscale("symlog", linthresh=1, linscale=0.4)
            axes.set_ylim(0, 1.5 * means.max())
        axes.yaxis.set_major_formatter("{x:g}")


def label_height(rows: Sequence[Row]) -> float:
    """Return the inches that the names of layers need under a panel."""
    return 0.6 * TEXT / 72 * max(map(len, layer_names(_layers(rows))), default=0)


def _layers(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(layer for row in rows for layer in _units(row)))


def _units(row: Row) -> dict[str, float]:
    text = row["units_on_paths"]
    return {layer: float(units) for layer, units in json.loads(text).items()} if isinstance(text, str) else {}
