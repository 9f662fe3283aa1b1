from __future__ import annotations

from pathlib import Path

import pytest
from repository import ROOT

from lightning_subnets.commands.subnets import main
from lightning_subnets.experiments.sweep import results


@pytest.mark.thorough
def test_one_command_runs_and_draws_a_figure_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["sweep", str(ROOT / "configs/figures/figure5.yaml")])
    _, rows = results.read(tmp_path / "runs/figures/figure5-smoke")
    assert [row["status"] for row in rows] == ["finished"] * 9
    assert max(float(row["test_accuracy"] or 0) for row in rows) > 0.5
    report = tmp_path / "runs/figures/figure5-smoke/report"
    assert {path.name for path in report.rglob("*") if path.is_file()} == {
        *("index.html", "figure.png", "figure.pdf", "table.csv", "table.md")
    }
