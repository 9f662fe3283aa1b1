"""The units of each layer that lie on paths, drawn over the layers."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from made_sweeps import DENSITIES, made, units

from lightning_subnets.errors import UserError
from lightning_subnets.experiments.report import page, plots
from lightning_subnets.experiments.sweep.figure import Plot


def test_units_are_drawn_over_layers_in_the_networks_order() -> None:
    sweep, rows = made(
        {"a": None, "b": None}, {"density": DENSITIES}, [Plot(y="units_on_paths", panels="density")], units
    )
    figure = plots.draw(sweep, sweep.figure.plots[0], rows)
    assert [axes.get_title() for axes in figure.axes] == ["10 % kept", "50 % kept", "90 % kept"]
    axes = figure.axes[1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["features.10", "features.2", "classifier"]
    np.testing.assert_allclose([np.asarray(line.get_ydata()) for line in axes.lines], [[55, 30, 10]] * 2)
    band = np.asarray(axes.collections[0].get_paths()[0].vertices)
    at_first = band[band[:, 0] == 0, 1]
    np.testing.assert_allclose([at_first.min(), at_first.max()], [55 - math.sqrt(50), 55 + math.sqrt(50)])
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(("fewest", "form"), [(1.0, "log"), (0.0, "symlog")])
def test_units_that_span_decades_are_on_a_logarithmic_scale(fewest: float, form: str) -> None:
    layers = json.dumps({"first": 512.0, "second": 2.0, "third": fewest})
    sweep, rows = made({"a": None}, {}, [Plot(y="units_on_paths")], lambda row: {"units_on_paths": layers})
    (axes,) = plots.draw(sweep, sweep.figure.plots[0], rows).axes
    assert axes.get_yscale() == form


def test_units_need_no_axis_of_densities_and_an_unknown_x_is_a_mistake() -> None:
    layers = json.dumps({"first": 5.0})
    sweep, rows = made({"a": None}, {}, [Plot(y="units_on_paths")], lambda row: {"units_on_paths": layers})
    assert page.sweep_section("a", sweep, rows).table.columns == ["", "seeds", "test accuracy (%)", "weights kept"]
    wrong = dataclasses.replace(sweep, figure=dataclasses.replace(sweep.figure, plots=[Plot("densty")]))
    with pytest.raises(UserError, match="unknown axis or number 'densty'"):
        page.sweep_section("a", wrong, rows)
