"""The workspace of docs/dashboard.py: built, and saved on a server that stands in for W&B's."""

from __future__ import annotations

import csv
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from wandb_server import WandbServer

pytest.importorskip("wandb_workspaces", reason="pip install wandb-workspaces")

# The package's own.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style", "ignore:Support for class-based")

SCRIPT = str(ROOT / "docs" / "dashboard.py")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
    runpy.run_path(SCRIPT, run_name="__main__")


def panels(spec: Any) -> list[dict[str, Any]]:
    return [
        panel["config"] for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]
    ]


def test_the_workspace_shows_all_metrics_of_a_run_except_those_of_its_test(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--json")
    shown = panels(json.loads(capsys.readouterr().out)["spec"])
    with (finished_run / "metrics.csv").open(newline="") as file:
        logged = {name for name in next(csv.reader(file)) if name not in ("epoch", "step") and "test/" not in name}
    named = {metric for panel in shown for metric in panel["metrics"] or []}
    patterns = [panel["metricRegex"] for panel in shown if panel.get("metricRegex")]
    assert named | {name for name in logged if any(re.fullmatch(p, name) for p in patterns)} == logged
    assert {panel["xAxis"] for panel in shown} == {"_step"}


def test_the_workspace_is_saved_for_a_user_and_a_project(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--entity=me", "--project=mine")
    (saved,) = server.views
    assert (saved["entityName"], saved["projectName"], saved["displayName"]) == ("me", "mine", "Subnetworks")
    assert len(panels(json.loads(saved["spec"]))) == 11
    assert f"{server.url}/me/mine" in capsys.readouterr().out
