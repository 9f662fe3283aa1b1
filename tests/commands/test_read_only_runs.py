"""Commands that read the run of another user, in whose directory they cannot write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.training.module import SubnetModule


@pytest.fixture
def run(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a run in which no file can be created, also by root."""
    opened = Path.open

    def open_(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "x" in mode and finished_run in path.resolve().parents:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_)
    return finished_run


def test_inspect_prints_the_table_and_says_why_there_is_no_picture(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subnets(["inspect", str(run)])
    said = capsys.readouterr()
    assert "paths from inputs to outputs" in said.out
    assert "picture" not in said.out
    assert said.err == f"no picture: {run}/widths.png cannot be written (Permission denied)\n"


def test_predictions_are_refused_before_they_are_computed(
    run: Path, mistake: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["predict", f"--ckpt_path={run}"]
    with monkeypatch.context() as patch:
        patch.setattr(SubnetModule, "predict_step", lambda *_: pytest.fail("predictions are computed"))
        error = mistake(arguments)
    assert "(Permission denied): name a file elsewhere with --predictions.path" in error
    lightning([*arguments, f"--predictions.path={tmp_path}"])
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 361
