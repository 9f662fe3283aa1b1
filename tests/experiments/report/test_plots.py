from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_sweeps import DENSITIES, NETWORKS, figure3, made, units
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from readable_text import assert_readable_on_a_phone

from lightning_subnets.errors import UserError
from lightning_subnets.experiments.report import figure_layout, plots, tables
from lightning_subnets.experiments.sweep.figure import Plot
from lightning_subnets.run_files import drawing
from lightning_subnets.training.csv_text import Row

MATHS = r"$\nothing{$_^ $a$"


def curves(axes: Axes) -> list[tuple[list[list[float]], list[list[float]]]]:
    """Return the points of each line, and the ends of its error bars along y, empty without a deviation."""
    found = []
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, bars = container.lines
        assert line is not None
        ends = [[float(y) for _, y in segment] for segment in bars[-1].get_segments()]
        found.append((np.asarray(line.get_xydata()).tolist(), ends))
    return found


def notes(figure: Figure) -> str:
    return " ".join(figure.legends[0].get_title().get_text().split())


def test_a_point_is_the_mean_over_seeds_and_its_bar_one_deviation_either_way() -> None:
    sweep, rows = figure3()
    figure = plots.draw(sweep, sweep.figure.plots[0], rows)
    assert [axes.get_title() for axes in figure.axes] == ["Conv2", "Conv4"]
    ((points, bars),) = curves(figure.axes[1])
    # The accuracy is 60 + 20 density, and 2 more for the other seed: the deviation is 2 / sqrt(2).
    np.testing.assert_allclose(points, [[10, 63], [50, 71], [90, 79]])
    np.testing.assert_allclose(bars, [[y - math.sqrt(2), y + math.sqrt(2)] for y in (63, 71, 79)])
    assert figure.axes[0].get_ylabel() == "test accuracy (%)"
    assert figure.axes[0].get_xlabel() == "weights kept (%)"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    # The dense line does not vary along the density, so it is horizontal with a band.
    for axes, mean in zip(figure.axes, (81, 91), strict=True):
        (level,) = [line for line in axes.lines if np.array_equal(np.asarray(line.get_xdata()), [0, 1])]
        np.testing.assert_allclose(np.asarray(level.get_ydata(), dtype=float), mean)
        (band,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        np.testing.assert_allclose([band.get_y(), band.get_height()], [mean - math.sqrt(2), 2 * math.sqrt(2)])


def test_one_seed_has_no_deviation() -> None:
    sweep, rows = figure3(seeds=[3])
    figure = plots.draw(sweep, sweep.figure.plots[0], rows)
    ((_, bars),) = curves(figure.axes[0])
    assert bars == [[], [], []]
    assert not figure.axes[0].patches
    assert notes(figure) == "digits, 2 epochs; 1 seed"


def test_missing_and_failed_runs_are_named_and_not_drawn() -> None:
    sweep, rows = figure3()
    for row in rows:
        if row["network"] == "Conv4" and row["density"] == 0.9:
            row |= {"status": "missing", "test_accuracy": None}
    rows[0] |= {"status": "failed"}  # has an accuracy, which does not count
    figure = plots.draw(sweep, sweep.figure.plots[0], rows)
    ((conv2, bars),), ((conv4, _),) = map(curves, figure.axes)
    np.testing.assert_allclose(conv2[0], [10, 54])  # the other seed's
    assert bars[0] == []
    assert [x for x, _ in conv4] == [10, 50]
    assert figure.axes[1].get_xlim()[1] > 90, "there is space for the planned points"
    missing = "; ".join(f"signed constant, Conv4, 90 % kept, seed {seed}" for seed in (0, 1))
    assert notes(figure) == (
        "digits, 2 epochs; mean and one standard deviation of 1 to 2 seeds "
        f"2 of 16 runs missing ({missing}), 1 failed (signed constant, Conv2, 10 % kept, seed 0)"
    )


@pytest.mark.parametrize("plot", [Plot(log_x=True), Plot("kept"), Plot("network"), Plot(y="units_on_paths")])
def test_a_sweep_without_results_is_drawn_empty(plot: Plot) -> None:
    sweep, rows = figure3()
    for row in rows:
        row |= {"status": "missing", "test_accuracy": None, "kept": None}
    figure = plots.draw(sweep, plot, rows)
    assert all("nothing to draw yet" in [text.get_text() for text in axes.texts] for axes in figure.axes)
    assert "16 of 16 runs missing" in notes(figure)
    assert "and 13 more" in notes(figure)
    figure.draw_without_rendering()
    for row in rows:  # of images without a test set
        row["status"] = "finished"
    for axes in plots.draw(sweep, plot, rows).axes:
        assert [text.get_text() for text in axes.texts] == [f"no run has measured {plot.y}"]


def test_names_on_x_keep_their_order_and_lines_are_side_by_side() -> None:
    networks: dict[str, Any] = {"Conv8": {}, "Conv2": {}}
    lines: dict[str, list[str] | None] = {"ours": None, "theirs": None, "dense": []}
    sweep, rows = made(lines, {"network": networks}, [Plot("network")], lambda row: {})
    (axes,) = plots.draw(sweep, sweep.figure.plots[0], rows).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Conv8", "Conv2"]
    (ours, _), (theirs, _) = curves(axes)
    np.testing.assert_allclose([x for x, _ in ours], [-0.18, 0.82])
    np.testing.assert_allclose([x for x, _ in theirs], [0.18, 1.18])


def test_lines_stand_side_by_side_over_their_names() -> None:
    sweep, rows = figure3()
    few = [row for row in rows if row["density"] in (None, 0.5)]
    figure = plots.draw(sweep, Plot("line", panels="network"), few)
    assert [axes.get_title() for axes in figure.axes] == ["Conv2", "Conv4"]
    names = [*sweep.lines()]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names
    assert [points[0][0] for points, _ in curves(figure.axes[0])] == [*range(len(names))]
    assert not figure.legends[0].get_texts(), "x has the names"


def test_a_point_over_a_measured_x_is_at_its_mean_and_has_a_label() -> None:
    kept = {"Conv2": 2e6, "Conv4": 1e6}
    sweep, rows = made(
        {"ours": None},
        {"network": NETWORKS},
        [Plot("kept")],
        lambda row: {"kept": kept[str(row["network"])] + 2e5 * float(row["seed"] or 0)},
    )
    (axes,) = plots.draw(sweep, sweep.figure.plots[0], rows).axes
    ((points, _),) = curves(axes)
    np.testing.assert_allclose(points, [[1.1, 50], [2.1, 50]])
    assert {text.get_text() for text in axes.texts} == {"Conv2", "Conv4"}
    assert axes.get_xlabel() == "weights kept (millions)"


def test_every_other_axis_has_panels_too() -> None:
    sweep, rows = figure3()
    figure = plots.draw(sweep, Plot("network"), rows)
    assert [axes.get_title() for axes in figure.axes] == ["10 % kept", "50 % kept", "90 % kept"]
    assert [len(curves(axes)) for axes in figure.axes] == [2, 2, 2]  # the dense line is in each


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (-math.inf, "no path from inputs to outputs"),
        (math.inf, "infinite or no number"),
        (math.nan, "infinite or no number"),
    ],
)
def test_a_run_without_a_finite_value_is_left_out_and_named(value: float, why: str) -> None:
    sweep, rows = figure3()
    for row in rows:
        row["log10_trace"] = 3.0
    rows[0]["log10_trace"] = value
    for plot in (Plot("density", "log10_trace", "network"), Plot("log10_trace", "test_accuracy", "network")):
        figure = plots.draw(sweep, plot, rows)
        assert np.isfinite([point for axes in figure.axes for points, _ in curves(axes) for point in points]).all()
        assert f"{why}, so left out: signed constant, Conv2, 10 % kept, seed 0" in notes(figure)
        alone = replace(sweep, figure=replace(sweep.figure, plots=[plot]))
        assert [cells[-1] for cells in tables.of_sweep(alone, rows).cells[:2]] == ["3 (1 of 2 seeds)", "3"]


def test_a_logarithmic_x_has_readable_numbers() -> None:
    sweep, rows = figure3()
    figure = plots.draw(sweep, Plot("density", panels="network", log_x=True), rows)
    assert figure.axes[0].get_xscale() == "log"
    assert {"10", "20", "50"} <= {label.get_text() for label in figure.axes[0].get_xticklabels()}


@pytest.mark.parametrize(
    ("plot", "name"),
    [(Plot("heat"), "heat"), (Plot("density", "loss"), "loss"), (Plot("density", panels="net"), "net")],
)
def test_an_unknown_quantity_is_a_mistake(plot: Plot, name: str) -> None:
    sweep, rows = figure3()
    with pytest.raises(UserError, match=rf"unknown axis or number '{name}'.*Known: .*density"):
        plots.draw(sweep, plot, rows)


@pytest.mark.parametrize(
    ("x", "y", "panels"),
    [("network", "kept", MATHS), ("kept", "loss " + MATHS, None), ("kept", "units_on_paths", None)],
)
def test_no_name_is_read_as_mathematics(x: str, y: str, panels: str | None) -> None:
    measured = {"loss " + MATHS: 2.0, "units_on_paths": json.dumps({MATHS: 3, "b": 4})}
    axes: dict[str, Any] = {"network": {MATHS: {}, "b": {}}, MATHS: {MATHS: {}}}
    sweep, rows = made({MATHS: None}, axes, [Plot(x, y, panels)], lambda _: measured, title=MATHS)
    assert drawing.as_bytes(plots.draw(sweep, sweep.figure.plots[0], rows), "png").startswith(b"\x89PNG")


def crowded() -> Figure:
    lines: dict[str, list[str] | None] = {
        f"line {number}, of initialisation {number}": [] if number > 7 else None for number in range(10)
    }
    axes = {"network": {f"Network-{number}": {} for number in range(8)}, "width": {"width": [0.1, 1.0]}}
    title = "A title with a $ and an _ that is longer than its figure is wide: " + "far more than is wise, " * 5
    plot = Plot("width", panels="network")
    sweep, rows = made(lines, axes, [plot], lambda row: {"test_accuracy": float(str(row["line"])[5]) / 10}, title=title)
    for row in rows[7:100]:
        row |= {"status": "missing"}
    return plots.draw(sweep, plot, rows)


def labelled() -> Figure:
    millions = {"ResNet-50": 7.6, "ResNet-101": 7.7, "Wide ResNet-50-2": 20.6}

    def measure(row: Row) -> dict[str, float]:
        kept = millions[str(row["network"])] * 1e6
        return {"kept": kept, "test_accuracy": 0.5 + kept / 1e8 + 0.01 * (row["line"] == "b")}

    networks: dict[str, Any] = {name: {} for name in millions}
    sweep, rows = made({"a": None, "b": None}, {"network": networks}, [Plot("kept")], measure)
    return plots.draw(sweep, sweep.figure.plots[0], rows)


@pytest.mark.parametrize("drawn", [pytest.param(crowded, marks=pytest.mark.thorough), labelled])
def test_nothing_overlaps_and_nothing_is_cut_off(drawn: Callable[[], Figure]) -> None:
    figure = drawn()
    figure.draw_without_rendering()
    around = [text.get_window_extent() for text in figure.texts]
    around += [figure.legends[0].get_window_extent()]
    around += [box for axes in figure.axes if (box := axes.get_tightbbox()) is not None]
    labels = [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    for group in (around, labels):
        for one, other in itertools.combinations(group, 2):
            shared = Bbox.intersection(one, other)
            assert shared is None or min(shared.width, shared.height) < 2
    for box in around:
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


def layers() -> Figure:
    sweep, rows = made({"a": None, "b": None}, {"density": DENSITIES}, [Plot(y="units_on_paths")], units)
    return plots.draw(sweep, sweep.figure.plots[0], rows)


@pytest.mark.parametrize("drawn", [labelled, layers])
def test_all_text_is_readable_on_a_phone(drawn: Callable[[], Figure]) -> None:
    assert_readable_on_a_phone(drawn())


def test_lines_differ_in_grey_and_look_the_same_in_every_figure() -> None:
    looks = figure_layout.styles(map(str, range(10)))
    assert len({(look["marker"], str(look["linestyle"])) for look in looks.values()}) == 10
    sweep, rows = figure3()
    alone = [row for row in rows if row["line"] == "dense"]
    (colour,) = {
        plots.draw(sweep, sweep.figure.plots[0], some).legends[0].legend_handles[-1].get_color()  # type: ignore[union-attr]
        for some in (rows, alone)
    }
    assert colour == looks["1"]["color"]
