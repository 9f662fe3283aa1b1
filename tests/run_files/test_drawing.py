from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from readable_text import assert_readable_on_a_phone

from lightning_subnets.graph.diagnostics import Diagnosis, LayerDiagnosis
from lightning_subnets.run_files import drawing

METRICS = """density/a,density/b,epoch,step,swapped/a,swapped/b,train/accuracy,train/loss,val/accuracy,val/loss
,,0,9,,,,,0.5,1.0
0.5,0.25,0,9,0.2,0.1,0.4,1.5,,
,,1,19,,,,,0.75,0.5
0.5,0.25,1,19,0.1,0.05,0.6,0.7,,
"""
LAYER = LayerDiagnosis(kept=6, total=24, on_paths=5, units=4, width=3, alive=2, used=True)
ROUNDS: drawing.Series = {
    "val/accuracy": ([1, 2, 3, 4], [0.5, 0.6, 0.7, 0.8]),
    "density": ([1, 2, 3, 4, 5], [1.0, 1.0, 0.8, 0.8, 0.64]),
    "pruning/round": ([1, 2, 3, 4, 5], [0.0, 0.0, 1.0, 1.0, 2.0]),
}
DIAGNOSIS = Diagnosis({"b": LAYER, "a": LAYER}, log10_paths=2.5)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "experiment" / "version_3"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(METRICS)
    return folder


def draw(run: Path, diagnosis: Diagnosis | None = DIAGNOSIS) -> list[Path]:
    return drawing.draw_run(run, layers=["b", "a"], evaluated_on="test set", diagnosis=diagnosis)


def test_a_run_gets_pictures_in_colour(run: Path) -> None:
    pictures = draw(run)
    assert [picture.name for picture in pictures] == ["curves.png", "layers.png", "widths.png"]
    for picture in pictures:
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert pixels.shape[0] >= 300
        assert pixels.shape[1] >= 900
        colours = {"#{:02X}{:02X}{:02X}".format(*pixel) for pixel in np.unique(pixels.reshape(-1, 3), axis=0)}
        assert drawing.TRAIN in colours
        assert drawing.EVALUATION in colours or picture.name == "layers.png"


def test_pictures_without_content_are_left_out(run: Path) -> None:
    metrics = METRICS.replace("0.2,0.1,0.4", "0.0,0.0,0.4").replace("0.1,0.05,0.6", "0.0,0.0,0.6")
    (run / "metrics.csv").write_text(metrics)
    assert [picture.name for picture in draw(run)] == ["curves.png", "widths.png"]
    (run / "metrics.csv").write_text("epoch,step,train/loss\n0,9,1.5\n")
    assert [picture.name for picture in draw(run, None)] == ["curves.png"]


def test_all_text_is_readable_on_a_phone(run: Path) -> None:
    figures = drawing.figures_of(run, layers=["b", "a"], evaluated_on="test set", diagnosis=DIAGNOSIS)
    assert [*figures] == ["curves", "layers", "widths"]
    for figure in (*figures.values(), drawing.draw_rounds(ROUNDS, title="", evaluated_on="test set")):
        figure.draw_without_rendering()
        assert_readable_on_a_phone(figure)


def test_long_names_of_layers_differ() -> None:
    layers = [f"encoder.layers.encoder_layer_{number}.mlp.0.weight" for number in (1, 10, 11)]
    assert drawing.layer_names(["head.weight", *layers]) == ["head", "…1.mlp.0", "…10.mlp.0", "…11.mlp.0"]
    assert drawing.layer_names(["a" * 100]) == [f"{'a' * 13}…{'a' * 14}"]


def test_no_name_of_a_run_leaves_the_picture_or_warns(tmp_path: Path) -> None:
    run = tmp_path / ("🔥\u202e$_" + "w" * 200) / "version_0"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text(METRICS)
    for picture in draw(run):
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("L"))
        assert (pixels[:80, :4] > 250).all(), "the title does not reach the left edge"
        assert (pixels[:80, -4:] > 250).all(), "the title does not reach the right edge"


def test_a_run_of_one_epoch_shows_both_points_over_the_whole_epoch() -> None:
    metrics = {f"{data}/{name}": ([1], [0.5]) for data in ("train", "val") for name in ("accuracy", "loss")}
    for axes in drawing.draw_curves(metrics, title="", evaluated_on="test set").axes:
        assert [line.get_marker() for line in axes.lines] == ["o", "o"]
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_rounds_show_the_last_evaluation_of_each_round() -> None:
    figure = drawing.draw_rounds(ROUNDS, title="", evaluated_on="test set")
    (line,) = figure.axes[0].lines
    assert np.asarray(line.get_xydata()).tolist() == [[100.0, 60.0], [80.0, 80.0]]


def test_each_curve_has_its_images_and_the_last_accuracy_is_written() -> None:
    metrics = {
        f"{key}/{name}": ([1, 2], [first, first + step])
        for key, first in (("train", 0.25), ("val", 0.5))
        for name, step in (("accuracy", 0.25), ("loss", -0.125))
    }
    accuracy, loss = drawing.draw_curves(metrics, title="", evaluated_on="held-out images").axes
    found = [{line.get_label(): list(line.get_ydata()) for line in axes.lines} for axes in (accuracy, loss)]  # type: ignore[arg-type]
    assert found == [
        {"training set": [25, 50], "held-out images": [50, 75]},
        {"training set": [0.25, 0.125], "held-out images": [0.5, 0.375]},
    ]
    assert [text.get_text() for text in accuracy.texts] == ["75.00 %"]


def test_layers_show_their_last_density_and_all_their_swaps() -> None:
    metrics = {"density/a": ([1, 2], [0.5, 0.25]), "density/b": ([1, 2], [1.0, 0.75])}
    metrics |= {"swapped/a": ([1, 2], [0.1, 0.2]), "swapped/b": ([1, 2], [0.3, 0.4])}
    left, right, *_ = drawing.draw_layers(metrics, ["b", "a"], title="").axes
    assert [bar.get_width() for bar in left.patches] == [75, 25]  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.asarray(right.images[0].get_array()), [[30, 40], [10, 20]])


def test_the_bars_of_widths_are_all_units_those_with_weights_and_those_on_a_path() -> None:
    _, right = drawing.draw_widths(DIAGNOSIS, title="").axes
    found = {bars.get_label(): [bar.get_width() for bar in bars] for bars in right.containers}
    assert found == {"all units": [4, 4], "with weights in and out": [3, 3], "on a path": [2, 2]}
    assert [text.get_text() for text in right.texts] == [" 2", " 2"]
