"""The runs of a figure at one of its scales, each as a command line."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_subnets import atomic_file
from lightning_subnets.errors import UserError, unknown
from lightning_subnets.experiments.sweep.figure import (
    COLUMNS,
    NUMBERS,
    OF_POINTS,
    Figure,
    Line,
    Options,
    Scale,
    Value,
    figure_of,
)
from lightning_subnets.run_files.config_text import content_of, dumped
from lightning_subnets.run_files.names import plain_name
from lightning_subnets.run_files.shipped_configs import FOLDER, config_of

_NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?")


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep.

    The name of its directory depends on config, options and seed only, so a run that two figures share is made once.
    """

    line: str
    values: Mapping[str, Value]  # on each axis that the line varies along
    seed: int
    arguments: tuple[str, ...]  # of ``lightning fit``
    name: str

    @property
    def label(self) -> str:
        """The run in words."""
        return ", ".join([self.line, *(f"{axis} {value}" for axis, value in self.values.items()), f"seed {self.seed}"])


@dataclass(frozen=True)
class Sweep:
    """A figure at one of its scales."""

    name: str  # of the figure's file and of the scale
    figure: Figure
    scale_name: str
    folder: Path  # of the figure's file

    @classmethod
    def read(cls, path: Path, scale: str | None) -> Sweep:
        """Read a figure's file, and check its runs before any of them starts.

        Without a scale, take ``smoke``, or the only one of the figure.

        Raises:
            UserError: if the file is missing or not a figure, has no such scale, or its parts do not fit together.
        """
        figure = figure_of(path, content_of(path))
        if scale is None:
            scale = next(iter(figure.scales)) if len(figure.scales) == 1 else "smoke"
            if scale not in figure.scales:
                raise UserError(f"{path} has several scales: name one with --scale, {' or '.join(figure.scales)}")
        if scale not in figure.scales:
            raise unknown(f"scale of {path}", scale, figure.scales)
        name = plain_name(f"{path.stem}-{scale}", f"the name of {path} with its scale")
        sweep = cls(name, figure, scale, path.parent)
        sweep._check(path)
        return sweep

    @classmethod
    def load(cls, path: Path) -> Sweep:
        """Load a sweep that ``write`` has written, to report on it.

        Raises:
            UserError: if the file is missing or damaged, or the sweep's name cannot name a directory.
        """
        content = content_of(path, aliases=False)  # a stranger's file may be one to report on
        if not isinstance(content, dict) or content.keys() != {"name", "scale", "figure"}:
            raise UserError(f"{path} is not a file of subnets sweep: repeat the sweep to write it again")
        figure = figure_of(path, content["figure"])
        scale = content["scale"]
        if not isinstance(scale, str) or scale not in figure.scales:
            raise unknown(f"scale of {path}", str(scale), figure.scales)
        return cls(plain_name(content["name"], f"the name in {path}"), figure, scale, path.parent)

    def write(self, path: Path) -> None:
        """Write the figure, so that a report needs only this file and the results."""
        content = {"name": self.name, "scale": self.scale_name, "figure": asdict(self.figure)}
        atomic_file.write(path, dumped(content))

    @property
    def scale(self) -> Scale:
        return self.figure.scales[self.scale_name]

    def lines(self) -> dict[str, Line]:
        """Return the lines of the scale, in the figure's order."""
        wanted = self.figure.lines if self.scale.lines is None else self.scale.lines
        _check_known("line", wanted, self.figure.lines)
        return {name: line for name, line in self.figure.lines.items() if name in wanted}

    def axes(self, line: Line) -> dict[str, dict[Value, Options]]:
        """Return the axes that a line varies along, each with the options of its values."""
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
                    if value not in [*values]:  # a list, because a value from the file may be unhashable
                        raise unknown(f"value of {name}", str(value), map(str, values))
                values = {value: options for value, options in values.items() if value in chosen}
            axes[name] = values
        return axes

    def runs(self) -> Iterator[PlannedRun]:
        """Yield all runs, seed by seed, so that a sweep that is stopped early has runs at every point."""
        lines = {name: (line, self.axes(line), self._config(name, line)) for name, line in self.lines().items()}
        settings = {config: settings_of(config) for _, _, config in lines.values()}
        for seed in self.scale.seeds:
            for name, (line, axes, config) in lines.items():
                for point in itertools.product(*axes.values()):
                    values = dict(zip(axes, point, strict=True))
                    options = dict(self.scale.options) | line.options
                    for axis, value in values.items():
                        options |= axes[axis][value]
                    named = (
                        f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
                        for key, value in options.items()
                    )
                    arguments = ("-c", _shortest(config), *named, f"--seed_everything={seed}")
                    yield PlannedRun(name, values, seed, arguments, _name(config, settings[config], options, seed))

    def _config(self, name: str, line: Line) -> Path:
        config = config_of(str(Path(self.scale.configs) / line.config), self.folder)
        if not config.is_file():
            raise UserError(
                f"{config} is missing: it is the config of the line {name!r} of {self.name}; put it there, or name a "
                "config that subnets configs lists"
            )
        return config

    def _check(self, path: Path) -> None:
        """Check what would otherwise fail after hours, or never be noticed."""
        figure, scale = self.figure, self.scale
        runs = list(self.runs())
        if not runs or not figure.plots:
            raise UserError(f"{self.name} has no runs or no plots: it needs a line, a seed, and a plot")
        if len({*scale.seeds}) < len(scale.seeds) or min(scale.seeds) < 0:
            raise UserError(f"seeds of {self.name} are {scale.seeds}: each once, and none below 0")
        axes = {axis for run in runs for axis in run.values}
        _check_known(f"axis of the scale {self.scale_name} of {path}", scale.axes, axes | figure.axes.keys())
        for name, line in self.lines().items():
            if unused := sorted(line.axes.keys() - self.axes(line).keys()):
                raise UserError(
                    f"the line {name!r} of {path} has an axis {unused[0]!r} that its `over` lacks: add it there"
                )
        _check_known(f"published line of {path}", figure.published, figure.lines)
        if taken := sorted(axes & {*COLUMNS, *OF_POINTS}):
            raise UserError(f"{path} calls an axis {taken[0]!r}, which is a column of the results: rename the axis")
        for axis in axes:
            values = [run.values[axis] for run in runs if axis in run.values]
            if len({isinstance(value, str) for value in values}) > 1:
                raise UserError(f"the axis {axis!r} of {path} has numbers and names: use only one kind")
        for plot in figure.plots:
            if plot.y != "units_on_paths":
                _check_known(f"quantity of a plot of {path}", [plot.x], {*axes, *NUMBERS, "line"})
                _check_known(f"quantity of a plot of {path}", [plot.y], {*NUMBERS, "units_on_paths"})
            _check_known(f"axis of a plot of {path}", [plot.panels] if plot.panels else [], axes)
            on_x = [run.line if plot.x == "line" else run.values.get(plot.x) for run in runs]
            bad = [value for value in on_x if isinstance(value, str) or (value is not None and value <= 0)]
            if plot.log_x and bad:
                why = "its values are names" if isinstance(bad[0], str) else f"it has the value {bad[0]}"
                raise UserError(f"{path} draws {plot.x!r} on a logarithmic scale, but {why}: remove log_x")


def _check_known(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)


def settings_of(config: Path, above: tuple[Path, ...] = ()) -> str:
    """Return the settings of a config and of its bases as JSON, which has no comments.

    ``above`` are the configs that are based on it.
    """
    if config.resolve() in above:
        raise UserError(
            f"{config} is based on itself: its key `config` must name another file, or a config of this package by its "
            "name without .yaml"
        )
    content = content_of(config)
    if not isinstance(content, dict):
        raise UserError(f"{config} is not a config: it must be a mapping from keys to values")
    base = content.pop("config", None)
    own = json.dumps(content, sort_keys=True, default=str)
    if base is None:
        return own
    return settings_of(config_of(base, config.parent), (*above, config.resolve())) + own


def _name(config: Path, settings: str, options: Options, seed: int) -> str:
    """Return the name of a run: readable words, and a digest of its config and its options."""
    words = [f"{config.resolve().parent.name}_{config.stem}".lstrip(".")]  # no directory of a run is hidden
    for key, value in sorted(options.items()):
        kind = str(value.get("class_path", "") if isinstance(value, dict) else value)
        words.append(f"{key.rsplit('.', 1)[-1]}={kind if _NUMBER.fullmatch(kind) else kind.rsplit('.', 1)[-1]}")
    readable = re.sub(r"[^A-Za-z0-9.+=_-]+", "_", "-".join(words))[:120]
    digest = hashlib.sha256(json.dumps([settings, options], sort_keys=True).encode()).hexdigest()
    return f"{readable}-seed={seed}-{digest[:8]}"


def _values(name: str, axis: Any) -> dict[Value, Options]:
    """Return the options of each value of an axis, in either notation."""
    if isinstance(axis, dict) and len(axis) == 1:
        ((option, values),) = axis.items()
        if isinstance(values, list):
            for value in values:
                if value is None or isinstance(value, dict | list):  # None stands for a line that does not vary
                    shown = json.dumps(value, default=str)
                    raise UserError(
                        f"the axis {name!r} has the value {shown}, not a name or a number: give it a name, "
                        f"{{a name: {{{option}: {shown}}}}}"
                    )
            return {value: {option: value} for value in values}
    if isinstance(axis, dict) and None not in axis and all(isinstance(options, dict) for options in axis.values()):
        return {value: dict(options) for value, options in axis.items()}
    raise UserError(
        f"the axis {name!r} is {axis}: give an option and its values, {{model.method.density: [0.1, 0.5]}}, or values "
        "and their options, {Conv2: {model.network: ...}}"
    )


def _shortest(path: Path) -> str:
    """Return a path relative to the working directory if it is inside, the name of a shipped config, or a full path."""
    path = path.resolve()
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(path.relative_to(FOLDER).with_suffix("") if path.is_relative_to(FOLDER) else path)
