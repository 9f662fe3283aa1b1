"""What is left out of a picture is named below it, and many lines are shared out among panels."""

from __future__ import annotations

import numpy as np
import pytest
from made_sweeps import DENSITIES, made
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from lightning_subnets.experiments.report import plots
from lightning_subnets.experiments.report.figure_layout import LINES
from lightning_subnets.experiments.sweep.figure import Plot
from lightning_subnets.training.csv_text import Row


def notes(figure: Figure) -> str:
    return " ".join(figure.legends[0].get_title().get_text().split())


def test_the_front_joins_the_points_that_no_smaller_point_beats_and_labels_only_them() -> None:
    sizes = {"a": [10, 20, 40], "b": [12, 15, 50]}
    accuracies = {"a": [0.5, 0.4, 0.8], "b": [0.5, 0.6, 0.7]}

    def measure(row: Row) -> dict[str, float]:
        line, place = str(row["line"]), [0.1, 0.5, 0.9].index(float(row["density"] or 0))
        return {"file_bytes": 1000 * sizes[line][place], "test_accuracy": accuracies[line][place]}

    plot = Plot("file_bytes", log_x=True, frontier=True)
    sweep, rows = made({"a": None, "b": None}, {"density": DENSITIES}, [plot], measure)
    (axes,) = (figure := plots.draw(sweep, plot, rows)).axes
    (front,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(front.get_xydata(), [[10, 50], [15, 60], [40, 80]])  # type: ignore[arg-type]
    assert [text.get_text() for text in axes.texts] == ["10 %", "90 %", "50 %"]  # of a, a and b
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "a",
        "b",
        "best of all lines up to each file size",
    ]
    assert axes.get_xlabel() == "file size (kB)"


def test_a_front_of_one_point_shows_the_others_too(recwarn: pytest.WarningsRecorder) -> None:
    def measure(row: Row) -> dict[str, float]:
        density = float(row["density"] or 0)
        return {"file_bytes": 1e5 * density, "test_accuracy": 1 - 0.1 * density}

    plot = Plot("file_bytes", frontier=True)
    sweep, rows = made({"a": None}, {"density": DENSITIES}, [plot], measure)
    low, high = plots.draw(sweep, plot, rows).axes[0].get_ylim()
    assert low < 91 < 99 < high < 101
    assert not recwarn.list


def test_points_far_below_the_front_are_named_and_not_drawn() -> None:
    def measure(row: Row) -> dict[str, float]:
        density, bad = float(row["density"] or 0), row["line"] == "b" and row["density"] == 0.1
        return {"file_bytes": 1e5 * density, "test_accuracy": 0.1 if bad else 0.8 + 0.1 * density}

    plot = Plot("file_bytes", log_x=True, frontier=True)
    sweep, rows = made({"a": None, "b": None}, {"density": DENSITIES}, [plot], measure)
    figure = plots.draw(sweep, plot, rows)
    assert figure.axes[0].get_ylim()[0] == pytest.approx(81 - 4 * 8)  # the front rises from 81 to 89
    assert notes(figure).endswith("2 seeds test accuracy (%), below the picture: b, 10 % kept: 10")


def test_one_point_far_below_all_others_is_named_and_not_drawn() -> None:
    def drawn(lines: int, lonely: int) -> tuple[float, str]:
        def measure(row: Row) -> dict[str, float]:
            low = int(str(row["line"])) < lonely and row["density"] == 0.1
            return {"test_accuracy": 0.1 if low else 0.8 + 0.1 * float(row["density"] or 0)}

        plot = Plot("density")
        sweep, rows = made({str(line): None for line in range(lines)}, {"density": DENSITIES}, [plot], measure)
        figure = plots.draw(sweep, plot, rows)
        return figure.axes[0].get_ylim()[0], notes(figure)

    low, said = drawn(lines=7, lonely=1)  # one of 21 points
    assert low == pytest.approx(81 - 0.1 * 8)
    assert said.endswith("2 seeds test accuracy (%), below the picture: 0, 10 % kept: 10")
    for lines, lonely in ((7, 2), (6, 1), (7, 0)):
        low, said = drawn(lines, lonely)
        assert low < (10 if lonely else 81)
        assert "below" not in said


def test_more_lines_than_colours_are_shared_out_with_the_first_in_each_panel() -> None:
    lines = [f"line {place}" for place in range(14)]
    values = {line: 0.5 + place / 100 for place, line in enumerate(lines)}
    plot = Plot("file_bytes", frontier=True)

    def measure(row: Row) -> dict[str, float]:
        return {"file_bytes": 1e5 * float(row["density"] or 0), "test_accuracy": values[str(row["line"])]}

    sweep, rows = made(dict.fromkeys(lines), {"density": DENSITIES}, [plot], measure)
    figure = plots.draw(sweep, plot, rows)
    shown, fronts = [], []
    for axes in figure.axes:
        curves = [container.lines[0] for container in axes.containers if isinstance(container, ErrorbarContainer)]
        assert len({curve.get_color() for curve in curves if curve is not None}) == len(curves) <= LINES
        shown.append([round(float(np.asarray(curve.get_ydata())[0])) for curve in curves if curve is not None])
        fronts += [np.asarray(line.get_xydata()) for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert shown == [[50, 51, 52, 53, 54, 55], [50, 56, 57, 58, 59], [50, 60, 61, 62, 63]]
    for front in fronts:
        np.testing.assert_allclose(front, [[10, 63]])  # of all lines
    assert len(fronts) == 3
