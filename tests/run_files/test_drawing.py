from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lightning_subnets.graph.diagnostics import Diagnosis, LayerDiagnosis
from lightning_subnets.run_files import drawing

METRICS = """density/a,density/b,epoch,step,swapped/a,swapped/b,train/accuracy,train/loss,val/accuracy,val/loss
,,0,9,,,,,0.5,1.0
0.5,0.25,0,9,0.2,0.1,0.4,1.5,,
,,1,19,,,,,0.75,0.5
0.5,0.25,1,19,0.1,0.05,0.6,0.7,,
"""


def chain() -> Diagnosis:
    layers = {name: LayerDiagnosis(kept=6, total=24, on_paths=5, units=4, width=3, alive=2, used=True) for name in "ba"}
    return Diagnosis(layers, log10_paths=2.5)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "experiment" / "version_3"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(METRICS)
    return folder


def test_metrics_are_read_by_name_with_the_epochs_they_end(run: Path) -> None:
    metrics = drawing.read_metrics(run / "metrics.csv")
    assert metrics["val/accuracy"] == ([1, 2], [0.5, 0.75])
    assert metrics["swapped/b"] == ([1, 2], [0.1, 0.05])


def test_a_run_gives_two_pictures_in_colours_of_their_own(run: Path) -> None:
    pictures = drawing.draw_run(run, layers=["b", "a"], evaluated_on="test set", diagnosis=chain())
    assert [picture.name for picture in pictures] == ["curves.png", "layers.png", "widths.png"]
    for picture in pictures:
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert pixels.shape[0] >= 300
        assert pixels.shape[1] >= 900
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    with Image.open(pictures[0]) as image:
        curves = {tuple(color) for color in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()}
    assert {
        tuple(int(code[i : i + 2], 16) for i in (1, 3, 5)) for code in (drawing.TRAIN, drawing.EVALUATION)
    } <= curves


def test_masks_that_never_change_are_not_drawn_by_epoch(run: Path) -> None:
    metrics = METRICS.replace("0.2,0.1,0.4", "0.0,0.0,0.4").replace("0.1,0.05,0.6", "0.0,0.0,0.6")
    (run / "metrics.csv").write_text(metrics)
    pictures = drawing.draw_run(run, layers=["a", "b"], evaluated_on="test set", diagnosis=chain())
    assert [picture.name for picture in pictures] == ["curves.png", "widths.png"]


def test_a_run_without_masks_gives_its_curves_alone(run: Path) -> None:
    lines = [line.split(",") for line in METRICS.splitlines()]
    keep = [index for index, name in enumerate(lines[0]) if not name.startswith(("density", "swapped"))]
    (run / "metrics.csv").write_text("\n".join(",".join(line[index] for index in keep) for line in lines))
    pictures = drawing.draw_run(run, layers=["a", "b"], evaluated_on="test set", diagnosis=None)
    assert [picture.name for picture in pictures] == ["curves.png"]


def test_accuracy_over_density_is_that_of_each_rounds_last_evaluation(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(0.5, 1.0, 0), (0.6, 1.0, 0), (0.7, 0.8, 1), (0.8, 0.8, 1), (None, 0.64, 2)]
    metrics: drawing.Series = {
        "val/accuracy": ([1, 2, 3, 4], [accuracy for accuracy, *_ in rows if accuracy]),
        "density": ([1, 2, 3, 4, 5], [density for _, density, _ in rows]),
        "pruning/round": ([1, 2, 3, 4, 5], [float(number) for *_, number in rows]),
    }
    saved: list[Figure] = []
    monkeypatch.setattr(drawing, "_save", lambda figure, *_: saved.append(figure))
    drawing.draw_rounds(metrics, run / "rounds.png", title="", evaluated_on="test set")
    (line,) = saved[0].axes[0].lines
    assert np.asarray(line.get_xydata()).tolist() == [[100.0, 60.0], [80.0, 80.0]]
