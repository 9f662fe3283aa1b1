"""Sweeps and runs with invented results."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_subnets.experiments.sweep.figure import COLUMNS, Figure, Line, Plot, Scale
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.training.csv_text import Row


def made(
    lines: Mapping[str, list[str] | None],
    axes: Mapping[str, Any],
    plots: Sequence[Plot],
    measure: Callable[[Row], Mapping[str, Any]],
    *,
    seeds: Sequence[int] = (0, 1),
    scale: str = "smoke",
    published: Mapping[str, Any] | None = None,
    title: str = "Figure 0",
) -> tuple[Sweep, list[Row]]:
    """Return a sweep and its results.

    Args:
        lines: the axes of each line, None for all.
        measure: returns the columns in which a row differs from the others.
    """
    figure = Figure(
        title=title,
        source="a paper",
        caption="What is to be seen.",
        lines={name: Line("base.yaml", over=over) for name, over in lines.items()},
        plots=list(plots),
        scales={scale: Scale("digits", "digits, 2 epochs", list(seeds))},
        axes=dict(axes),
        published=dict(published or {}),
    )
    sweep = Sweep(f"figure0-{scale}", figure, scale, Path())
    rows = []
    for seed, (name, line) in itertools.product(seeds, figure.lines.items()):
        of_line = sweep.axes(line)
        for point in itertools.product(*of_line.values()):
            row: Row = {"line": name, **dict.fromkeys(figure.axes), **dict(zip(of_line, point, strict=True))}
            row |= dict.fromkeys(COLUMNS[1:]) | {
                "seed": float(seed),
                "status": "finished",
                "kept": 5e5,
                "test_accuracy": 0.5,
                "seconds": 30.0,
                "finished": "2026-01-02T03:04:05",
            }
            row |= {"command": f"lightning fit -c base.yaml --seed_everything={seed}"}
            rows.append(row | dict(measure(row)))
    return sweep, rows


NETWORKS: dict[str, Any] = {"Conv2": {}, "Conv4": {}}
DENSITIES = {"model.method.density": [0.1, 0.5, 0.9]}


def figure3(scale: str = "smoke", **changes: Any) -> tuple[Sweep, list[Row]]:
    """Return a sweep of two networks, three densities, and two seeds, with a dense line over the networks only."""

    def measure(row: Row) -> dict[str, float]:
        seed, density = float(row["seed"] or 0), float(row["density"] or 1.5)
        return {"test_accuracy": 0.5 + 0.2 * density + 0.02 * seed + 0.1 * (row["network"] == "Conv4")}

    axes = {"network": NETWORKS, "density": DENSITIES}
    lines = {"signed constant": None, "dense": ["network"]}
    return made(lines, axes, [Plot("density", panels="network")], measure, scale=scale, **changes)


METRICS = """density/a.10,density/a.2,epoch,step,swapped/a.10,swapped/a.2,val/accuracy,val/loss
,,0,9,,,0.5,1.0
0.5,0.25,0,9,0.2,0.1,,
"""


def a_run(folder: Path, summary: dict[str, object] | None) -> Path:
    """Write the files of a run that a report reads; a run without a summary is not finished."""
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(METRICS)
    data = {"class_path": "lightning_subnets.datamodules.Digits", "init_args": {"validation_fraction": 0.1}}
    model = {"network": {"class_path": "lightning_subnets.networks.Conv2"}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "seed_everything": 0}))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def units(row: Row) -> dict[str, str]:
    """Return units on paths of three layers, of which one depends on density and seed."""
    first = 100 * float(row["density"] or 0) + 10 * float(row["seed"] or 0)
    return {"units_on_paths": json.dumps({"features.10": first, "features.2": 30.0, "classifier": 10.0})}
