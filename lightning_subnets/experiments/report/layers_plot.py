"""Units on paths of kept weights, layer by layer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from lightning_subnets.experiments.report import points
from lightning_subnets.experiments.report.styles import Style
from lightning_subnets.experiments.sweep.results import Row

SHOWN = 20  # names of layers, at most
DECADES = 1.5  # over which units are drawn on a logarithmic scale
TYPE = 7


def draw(axes: Axes, rows: Sequence[Row], looks: Mapping[str, Style]) -> list[str]:
    """A line for each of the figure's: the mean over seeds, and one standard deviation as a band.

    Returns: the lines that are drawn.
    """
    layers = _layers(rows)
    every = max(math.ceil(len(layers) / SHOWN), 1)
    drawn = []
    for line, style in looks.items():
        runs = [units for row in rows if row["line"] == line and (units := _units(row))]
        if not runs:
            continue
        found = [
            (place, points.measured([run[layer] for run in runs if layer in run])) for place, layer in enumerate(layers)
        ]
        here = [(place, units) for place, units in found if units is not None]
        places, mean = [place for place, _ in here], np.array([units.mean for _, units in here])
        deviation = np.array([units.deviation if units.deviation is not None else np.nan for _, units in here])
        axes.plot(
            places,
            mean,
            color=style.colour,
            marker=style.marker,
            linestyle=style.dashes,
            markersize=4,
            markevery=every,
            linewidth=1.2,
        )
        axes.fill_between(
            places, np.maximum(mean - deviation, 0), mean + deviation, color=style.colour, alpha=0.15, linewidth=0
        )
        drawn.append(line)
    shown = range(0, len(layers), every)
    axes.set_xticks(shown, [layers[place] for place in shown], rotation=90, fontsize=TYPE, parse_math=False)
    return drawn


def scale(panels: Sequence[Axes]) -> None:
    """Logarithmic where units span decades, with a place for none."""
    lines = (np.asarray(line.get_ydata(), dtype=float) for axes in panels for line in axes.lines)
    means = np.concatenate([np.empty(0), *lines])
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


def room(rows: Sequence[Row]) -> float:
    """Inches that the names of layers need under a panel."""
    return 0.6 * TYPE / 72 * max(map(len, _layers(rows)), default=0)


def _layers(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(layer for row in rows for layer in _units(row)))


def _units(row: Row) -> dict[str, float]:
    text = row["units_on_paths"]
    return {layer: float(units) for layer, units in json.loads(text).items()} if isinstance(text, str) else {}
