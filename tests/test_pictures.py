"""The scripts that draw the pictures of the pages; their text can be read on a phone."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from readable_text import assert_readable_on_a_phone
from repository import ROOT

METRICS = "epoch,step,val/accuracy\n0,9,0.9\n1,19,0.95\n"


SCRIPTS = {"docs/idea.py", "docs/serving.py", "examples/look.py", "examples/compare.py"}


def test_the_scripts_draw_every_picture_in_docs() -> None:
    pictures = {path.stem for path in (ROOT / "docs").rglob("*.png")}
    assert pictures == {Path(script).stem for script in SCRIPTS}


@pytest.mark.parametrize(
    "script",
    [pytest.param(name, marks=[pytest.mark.thorough] * name.startswith("examples")) for name in sorted(SCRIPTS)],
)
def test_the_text_of_a_picture_is_readable_on_a_phone(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: drawn.append(figure))
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path)])
    (tmp_path / "metrics.csv").write_text(METRICS)
    plt.switch_backend("agg")  # the examples use pyplot
    runpy.run_path(str(ROOT / script))
    plt.close("all")
    (figure,) = drawn
    figure.draw_without_rendering()
    assert_readable_on_a_phone(figure)
