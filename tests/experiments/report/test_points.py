"""The runs of a sweep in words, and the columns of their table."""

from __future__ import annotations

from made_sweeps import figure3

from lightning_subnets.experiments.report import points, tables
from lightning_subnets.experiments.sweep.figure import COLUMNS, OF_POINTS


def test_a_run_is_named_by_its_values_on_the_axes_that_its_line_varies_along() -> None:
    run: dict[str, str | float | None] = {"line": "a", "bias": False, "width": None, "density": 0.0, "seed": 0}
    assert points.describe_run(run, ["bias", "width", "density"]) == "a, bias False, 0 % kept, seed 0"


def test_every_column_of_a_table_is_an_axis_or_a_name_that_no_axis_may_have() -> None:
    sweep, rows = figure3("paper", published={"dense": {"Conv2": 70.0}})
    columns = tables.of_sweep(sweep, rows).data[0].keys()
    assert columns - {*COLUMNS} == {"network", "density", *OF_POINTS}
