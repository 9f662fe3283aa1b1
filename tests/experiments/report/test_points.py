"""The runs of a sweep in words."""

from __future__ import annotations

from lightning_subnets.experiments.report import points


def test_a_run_is_named_by_its_values_on_the_axes_that_its_line_varies_along() -> None:
    run: dict[str, str | float | None] = {"line": "a", "bias": False, "width": None, "density": 0.0, "seed": 0}
    assert points.describe_run(run, ["bias", "width", "density"]) == "a, bias False, 0 % kept, seed 0"
