"""A figure of a paper as a file: what varies, what is compared, how it is drawn, and at which scales it is run."""

from __future__ import annotations

import json
from dataclasses import field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lightning_subnets.errors import UserError
from lightning_subnets.training.schema import first_mistake

Value = str | float
# A value may name a class, {class_path: ..., init_args: ...}. Only the run that it is for builds it: a report reads
# figures from elsewhere.
Options = dict[str, Any]
_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_CONFIG)
class Line:
    """Runs that belong together: a line of the figure, a row of its table.

    Args:
        config: of ``lightning fit``, a file in the scale's ``configs``.
        options: what it changes there, by dotted key.
        over: the axes it is run along, all of the figure's where none are named. A line that is not run along a plot's
            x is drawn as a horizontal one.
        axes: its own values for some axes.
    """

    config: str
    options: Options = field(default_factory=dict)
    over: list[str] | None = None
    axes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=_CONFIG)
class Plot:
    """A picture of the runs.

    Args:
        x: an axis or a number that was measured, see ``columns.py``.
        y: what was measured; ``units_on_paths`` is drawn over layers and not over x.
        panels: the axis that has a panel for each value.
        log_x: whether x is on a logarithmic scale.
    """

    x: str = "density"
    y: str = "test_accuracy"
    panels: str | None = None
    log_x: bool = False


@dataclass(frozen=True, config=_CONFIG)
class Scale:
    """How much of a figure is run, and on what.

    Args:
        configs: the folder of the lines' configs, seen from the figure's file.
        note: on what, in a few words, for the caption.
        seeds: as many runs are made of each point.
        options: what is changed in every config; those of a line and of an axis go before them.
        axes: for an axis a list, the values to keep of it, or a mapping, other values.
        lines: the lines to keep, all where none are named.
        at_once: runs at a time on one GPU, where no other number is asked for: as many as its memory holds.
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
        caption: what is to be seen, in a sentence or two.
        axes: what varies. Each axis is a mapping from its values to the options that make them,
            ``{Conv2: {model.network: ...}, Conv4: ...}``, or one option and its values,
            ``{model.method.density: [0.1, 0.5]}``.
        lines: what is compared, by the name in the legend.
        plots: how it is drawn.
        scales: ``paper`` is the paper's protocol; the others are smaller.
        published: accuracies in per cent that the paper prints, by line and, where it has one, by the value of the
            line's only axis. Only runs at the scale ``paper`` are compared with them.
        published_source: where they are printed.
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


def content_of(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no YAML: {error}") from error


def figure_of(path: Path, content: Any) -> Figure:
    """The figure in what a file holds.

    Raises:
        ValueError: if it is none.
    """
    try:
        json.dumps(content)  # options are written into command lines so
        return TypeAdapter(Figure).validate_python(content)
    except ValidationError as error:
        raise UserError(f"{path} is no figure: {first_mistake(error)}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no figure: {error}") from error
