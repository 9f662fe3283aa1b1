from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from repository import ROOT
from wandb_server import WandbServer

from lightning_subnets.commands.cli import main
from lightning_subnets.training.loggers.wandb_file import records

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
SHORT = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=3"]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_command_line_logs_online_with_its_config_and_says_where(
    server: WandbServer, capfd: pytest.CaptureFixture[str]
) -> None:
    main(["fit", "-c", QUICKSTART, *SHORT, "--trainer.logger=WandbLogger", "--seed_everything=3"])
    (run_id,) = server.runs
    assert server.runs[run_id]["groupName"] == "quickstart"
    assert server.runs[run_id]["displayName"] == "quickstart/version_0"
    config = json.loads(server.runs[run_id]["config"])
    assert config["seed_everything"]["value"] == 3
    assert config["versions"]["value"]["lightning_subnets"]
    assert "test/accuracy" in server.history(run_id)[-1]
    (path,) = Path().glob("runs/quickstart/version_0/wandb/run-*/*.wandb")
    assert [record.run.resume for record in records(path) if record.HasField("run")] == [True]
    assert [line for line in capfd.readouterr().err.splitlines() if "W&B" in line or "wandb" in line.lower()] == [
        f"W&B: {server.url}/me/lightning-subnets/runs/{run_id}"
    ]


def test_a_saved_config_begins_a_run_of_its_own(server: WandbServer) -> None:
    main(["fit", "-c", QUICKSTART, *SHORT, "--trainer.logger=WandbLogger"])
    saved = "runs/quickstart/version_0/config.yaml"
    logger = yaml.safe_load(Path(saved).read_text())["trainer"]["logger"][1]
    assert logger["class_path"] == "lightning_subnets.training.loggers.Dashboard"
    main(["fit", "-c", saved, "--name=again"])
    assert [run["displayName"] for run in server.runs.values()] == ["quickstart/version_0", "again/version_0"]
    assert os.path.isfile("runs/again/version_0/metrics.csv")


def test_score_histograms_come_by_one_option(server: WandbServer) -> None:
    main(["fit", "-c", QUICKSTART, *SHORT, "--trainer.logger=WandbLogger", "--trainer.callbacks+=ScoreHistograms"])
    (run_id,) = server.runs
    assert any(name.startswith("scores/") for row in server.history(run_id) for name in row)
