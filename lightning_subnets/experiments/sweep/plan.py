"""The runs of a figure at one of its scales: each is a command line."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_subnets.atomic_file import replacing
from lightning_subnets.errors import UserError, unknown
from lightning_subnets.experiments.sweep.columns import COLUMNS, NUMBERS
from lightning_subnets.experiments.sweep.figure import Figure, Line, Options, Scale, Value, content_of, figure_of
from lightning_subnets.run_files.names import plain_name

_NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?")


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep.

    Args:
        line: its name in the legend.
        values: where it stands on each axis that its line is run along.
        seed: of everything random.
        arguments: of ``lightning fit``.
        name: of its directory. A run is known by it, and the same run of two figures has one name and is made once.
    """

    line: str
    values: Mapping[str, Value]
    seed: int
    arguments: tuple[str, ...]
    name: str

    @property
    def label(self) -> str:
        """The run as a person knows it."""
        return ", ".join([self.line, *(f"{axis} {value}" for axis, value in self.values.items()), f"seed {self.seed}"])


@dataclass(frozen=True)
class Sweep:
    """A figure at one of its scales.

    Args:
        name: of the figure's file and the scale.
    """

    name: str
    figure: Figure
    scale_name: str
    folder: Path

    @classmethod
    def read(cls, path: Path, scale: str) -> Sweep:
        """
        Raises:
            ValueError: if the file is missing, is no figure, has no such scale, or names what is not there.
        """
        figure = figure_of(path, content_of(path))
        if scale not in figure.scales:
            raise unknown(f"scale of {path}", scale, figure.scales)
        name = plain_name(f"{path.stem}-{scale}", f"the name of {path} with its scale")
        sweep = cls(name, figure, scale, path.parent)
        sweep._check(path)
        return sweep

    @classmethod
    def load(cls, path: Path) -> Sweep:
        """A sweep as ``write`` has written it, to report on.

        Raises:
            ValueError: if the file is missing or damaged, or its name cannot be the name of a directory.
        """
        content = content_of(path)
        if not isinstance(content, dict) or content.keys() != {"name", "scale", "figure"}:
            raise UserError(f"{path} is not what subnets sweep writes: the same subnets sweep makes it again")
        figure = figure_of(path, content["figure"])
        scale = content["scale"]
        if not isinstance(scale, str) or scale not in figure.scales:
            raise unknown(f"scale of {path}", str(scale), figure.scales)
        return cls(plain_name(content["name"], f"the name in {path}"), figure, scale, path.parent)

    def write(self, path: Path) -> None:
        """Keep the figure beside its results, so that a report needs nothing else."""
        content = {"name": self.name, "scale": self.scale_name, "figure": asdict(self.figure)}
        with replacing(path) as file:
            file.write(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120).encode())

    @property
    def scale(self) -> Scale:
        return self.figure.scales[self.scale_name]

    def lines(self) -> dict[str, Line]:
        """Those of the scale, in the figure's order."""
        wanted = self.figure.lines if self.scale.lines is None else self.scale.lines
        for name in wanted:
            if name not in self.figure.lines:
                raise unknown("line", name, self.figure.lines)
        return {name: line for name, line in self.figure.lines.items() if name in wanted}

    def axes(self, line: Line) -> dict[str, dict[Value, Options]]:
        """The axes that a line is run along: the options of each value."""
        known = self.figure.axes | line.axes
        axes = {}
        for name in self.figure.axes if line.over is None else line.over:
            chosen = self.scale.axes.get(name)
            if isinstance(chosen, dict):
                known = known | {name: chosen}
            if name not in known:
                raise unknown("axis", name, known)
            values = _values(name, known[name])
            if isinstance(chosen, list):
                for value in chosen:
                    if value not in [*values]:  # which may be anything, a list for one
                        raise unknown(f"value of {name}", str(value), map(str, values))
                values = {value: options for value, options in values.items() if value in chosen}
            axes[name] = values
        return axes

    def runs(self) -> Iterator[PlannedRun]:
        """All runs: seed by seed, so that a sweep that is cut short has something of every point."""
        lines = {name: (line, self.axes(line), self._config(name, line)) for name, line in self.lines().items()}
        settings = {config: _settings(config) for _, _, config in lines.values()}
        for seed in self.scale.seeds:
            for name, (line, axes, config) in lines.items():
                for point in itertools.product(*axes.values()):
                    values = dict(zip(axes, point, strict=True))
                    options = dict(self.scale.options) | line.options
                    for axis, value in values.items():
                        options |= axes[axis][value]
                    run = _name(config, settings[config], options, seed)
                    yield PlannedRun(name, values, seed, _arguments(config, options, seed), run)

    def _config(self, name: str, line: Line) -> Path:
        config = self.folder / self.scale.configs / line.config
        if not config.is_file():
            raise UserError(f"{config} is missing, by which {name!r} of {self.name} is run")
        return config

    def _check(self, path: Path) -> None:
        """Find here, before anything is run, what would be found after hours, or never.

        Raises:
            ValueError: if the figure names what is not there, or its parts do not fit together.
        """
        figure, scale = self.figure, self.scale
        runs = list(self.runs())
        if not runs or not figure.plots:
            raise UserError(f"{self.name} has no runs or no plots: it needs a line, a seed, and a plot")
        if len({*scale.seeds}) < len(scale.seeds) or min(scale.seeds) < 0:
            raise UserError(f"seeds of {self.name} are {scale.seeds}: each once, and none below 0")
        axes = {axis for run in runs for axis in run.values}
        for axis in scale.axes:
            if axis not in axes | figure.axes.keys():
                raise unknown(f"axis of the scale {self.scale_name} of {path}", axis, axes)
        for name, line in self.lines().items():
            if unused := sorted(line.axes.keys() - self.axes(line).keys()):
                raise UserError(f"the line {name!r} of {path} has an axis {unused[0]!r} that it is not run over")
        for published in figure.published:
            if published not in figure.lines:
                raise unknown(f"published line of {path}", published, figure.lines)
        if taken := sorted(axes & {*COLUMNS}):
            raise UserError(f"an axis of {path} is called {taken[0]!r}, as a column of results.csv: name it otherwise")
        for axis in axes:
            values = [run.values[axis] for run in runs if axis in run.values]
            if len({isinstance(value, str) for value in values}) > 1:
                raise UserError(f"the axis {axis!r} of {path} has numbers and names: one of them")
        for plot in figure.plots:
            over_layers = plot.y == "units_on_paths"
            for name, known in ((plot.x, {*axes, *NUMBERS}), (plot.y, {*NUMBERS, "units_on_paths"})):
                if name not in known and not over_layers:
                    raise unknown(f"quantity of a plot of {path}", name, known)
            if plot.panels is not None and plot.panels not in axes:
                raise unknown(f"axis of a plot of {path}", plot.panels, axes)
            if plot.log_x and any(isinstance(run.values.get(plot.x), str) for run in runs):
                raise UserError(f"{path} draws {plot.x!r} on a logarithmic scale, and its values are names")


def _arguments(config: Path, options: Options, seed: int) -> tuple[str, ...]:
    named = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()]
    return ("-c", _shortest(config), *named, f"--seed_everything={seed}")


def _settings(config: Path) -> str:
    """What a config sets, its bases included; comments do not count."""
    content = content_of(config)
    if not isinstance(content, dict):
        raise UserError(f"{config} is no config: it sets nothing")
    base = content.pop("config", None)
    own = json.dumps(content, sort_keys=True, default=str)
    return own if base is None else _settings(config.parent / base) + own


def _name(config: Path, settings: str, options: Options, seed: int) -> str:
    """What can be read of a run's arguments, and a digest of them and of what its config sets."""
    words = [f"{config.resolve().parent.name}_{config.stem}"]
    for key, value in sorted(options.items()):
        kind = str(value.get("class_path", "") if isinstance(value, dict) else value)
        words.append(f"{key.rsplit('.', 1)[-1]}={kind if _NUMBER.fullmatch(kind) else kind.rsplit('.', 1)[-1]}")
    readable = re.sub(r"[^A-Za-z0-9.+=_-]+", "_", "-".join(words))[:120]
    digest = hashlib.sha256(json.dumps([settings, options], sort_keys=True).encode()).hexdigest()
    return f"{readable}-seed={seed}-{digest[:8]}"


def _values(name: str, axis: Any) -> dict[Value, Options]:
    """The options of each value of an axis, in either way of writing it."""
    if isinstance(axis, dict) and len(axis) == 1:
        ((option, values),) = axis.items()
        if isinstance(values, list):
            for value in values:
                if isinstance(value, dict | list):
                    raise UserError(
                        f"the axis {name!r} has the value {value}, which is none to print: give each a name, "
                        "{Conv2: {model.network: ...}}"
                    )
            return {value: {option: value} for value in values}
    if isinstance(axis, dict) and all(isinstance(options, dict) for options in axis.values()):
        return {value: dict(options) for value, options in axis.items()}
    raise UserError(
        f"the axis {name!r} is {axis}: it is an option and its values, {{model.method.density: [0.1, 0.5]}}, or values "
        "and their options, {Conv2: {model.network: ...}}"
    )


def _shortest(path: Path) -> str:
    """Seen from where the command is given, as a person would write it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
