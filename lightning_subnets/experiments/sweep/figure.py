"""The file of a figure: what varies, what is compared, how it is drawn, and at which scales it is run."""

from __future__ import annotations

import json
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lightning_subnets.errors import UserError
from lightning_subnets.training.schema import first_mistake

Value = str | float
# An option may name a class, {class_path: ..., init_args: ...}. Only a run builds it: a report may read a stranger's.
Options = dict[str, Any]

# The columns of results.csv, besides the axes. Accuracies are fractions, times seconds, units_on_paths a JSON object.
NUMBERS = (
    *("test_accuracy", "test_top5", "test_loss"),
    *("kept", "total", "file_bytes", "log10_paths", "log10_trace", "seconds"),
)
MEASURED = (*NUMBERS, "units_on_paths", "epochs", "steps", "method", "weights", "weights_digest", "device")
VERSIONS = ("torch", "torchvision", "lightning", "lightning_subnets")
COLUMNS = ("line", "seed", "status", "error", *MEASURED, "finished", *VERSIONS, "directory", "command")
# Further columns of a report's table.csv.
OF_POINTS = ("planned", "test_accuracy_percent", "deviation", "published_percent", "difference")
_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_CONFIG)
class Line:
    """Runs that belong together: a line of the figure, a row of its table.

    Args:
        config: the config of ``lightning fit``, a file in the scale's ``configs``.
        options: changes to the config, by dotted key.
        over: the axes that the line varies along, by default all of the figure's. A line that does not vary along a
            plot's x is drawn horizontally.
        axes: the line's own values for some axes.
    """

    config: str
    options: Options = field(default_factory=dict)
    over: list[str] | None = None
    axes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=_CONFIG)
class Plot:
    """A plot of the runs.

    Args:
        x: an axis, one of ``NUMBERS``, or ``line`` for the names of the lines.
        y: one of ``NUMBERS``, or ``units_on_paths``, which is drawn over layers and not over x.
        panels: the axis that has a panel for each value.
        log_x: whether x is logarithmic.
        frontier: whether to join the points of all lines that no other point beats with at most their x (the Pareto
            front), and to label only these.
    """

    x: str = "density"
    y: str = "test_accuracy"
    panels: str | None = None
    log_x: bool = False
    frontier: bool = False


@dataclass(frozen=True, config=_CONFIG)
class Scale:
    """How much of a figure is run, and on what.

    Args:
        configs: the folder of the lines' configs, relative to the figure's file or to the shipped configs.
        note: names the data and the length of training in the caption.
        seeds: the seeds of the runs at each point.
        options: changes to every config; the options of a line and of an axis override them.
        axes: for an axis a list of the values to keep, or a mapping with other values.
        lines: the lines to keep, by default all.
        at_once: the default number of runs at a time on one GPU, as many as fit into its memory.
    """

    configs: str
    note: str
    seeds: list[int]
    options: Options = field(default_factory=dict)
    axes: dict[str, list[Any] | dict[Any, Any]] = field(default_factory=dict)
    lines: list[str] | None = None
    at_once: int = 4


@dataclass(frozen=True, config=_CONFIG)
class Figure:
    """A figure or a table of a paper.

    Args:
        title: for instance ``Figure 3: going deeper``.
        source: the paper.
        caption: the content of the figure in a sentence or two.
        lines: the lines by their names in the legend.
        plots: the plots of the figure.
        scales: ``paper`` is the paper's protocol; the others are smaller.
        axes: what varies. Each axis maps its values to options, ``{Conv2: {model.network: ...}, Conv4: ...}``, or is
            one option with its values, ``{model.method.density: [0.1, 0.5]}``.
        published: accuracies in per cent that the paper prints, by line, or by line and the value of the line's only
            axis. Only runs at the scale ``paper`` are compared with them.
        published_source: the table or figure that prints them.
    """

    title: str
    source: str
    caption: str
    lines: dict[str, Line]
    plots: list[Plot]
    scales: dict[str, Scale]
    axes: dict[str, Any] = field(default_factory=dict)
    published: dict[str, float | dict[Any, float]] = field(default_factory=dict)
    published_source: str = ""


def figure_of(path: Path, content: Any) -> Figure:
    """Return the figure in the content of a file, or raise a ``UserError``."""
    try:
        json.dumps(content)  # because options become JSON on command lines
        return TypeAdapter(Figure).validate_python(content)
    except ValidationError as error:
        raise UserError(f"{path} is not a figure: {first_mistake(error)}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a figure: {error}") from error
