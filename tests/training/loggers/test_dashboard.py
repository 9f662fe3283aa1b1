"""One W&B run per run directory, offline without a server, and never a reason for a run to stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import QUICKSTART
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint
from metric_rows import by_step
from PIL import Image
from rank_processes import on_ranks
from wandb_server import WandbServer, serving

from lightning_subnets._version import versions
from lightning_subnets.commands.cli import main
from lightning_subnets.training.loggers import Dashboard, MetricsFile, add_pictures, finish


def train(run: Path, steps: range, *, resumed: bool = False, exit_code: int | None = 0) -> Dashboard:
    """Log as Lightning does: the loss at each step, and two more rows at each tenth step."""
    if resumed:
        time.sleep(1.1)  # wandb names the directory of a part by the second
    loggers = [MetricsFile(str(run), step=steps.start if resumed else None), Dashboard(str(run))]
    for step in steps:
        rows = [{"loss": 1 / (step + 1), "epoch": step // 10}]
        if step % 10 == 9:
            rows += [{"accuracy": step / 7, "epoch": step // 10}, {"loss_epoch": 1e-5 * step, "epoch": step // 10}]
        for row in rows:
            for logger in loggers:
                logger.log_metrics(row, step)
                logger.save()
    if exit_code is not None:
        finish(loggers, exit_code)
    assert isinstance(loggers[1], Dashboard)
    return loggers[1]


def sync(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "wandb", "sync", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=os.environ["HOME"])
    assert done.returncode == 0, done.stderr


def on_server(server: WandbServer, run: Path) -> dict[int, dict[str, Any]]:
    """The rows that the server has, by step; the run is the only one there, and has the id in its directory."""
    assert list(server.runs) == [(run / "wandb" / "run_id").read_text()]
    history = server.history(*server.runs)
    return {row["_step"]: {name: value for name, value in row.items() if name[0] != "_"} for row in history}


@pytest.fixture
def run(tmp_path: Path, server: WandbServer) -> Path:
    folder = tmp_path / "experiment" / "first try"
    folder.mkdir(parents=True)
    return folder


def test_a_resumed_run_is_the_same_run_on_the_server_with_the_rows_of_the_csv_file(
    run: Path, server: WandbServer, capfd: pytest.CaptureFixture[str]
) -> None:
    train(run, range(25))
    train(run, range(17, 40), resumed=True)  # the checkpoint is older than the last row
    (run_id,) = server.runs
    assert [row["_step"] for row in server.history(run_id)] == list(range(40))
    assert on_server(server, run) == by_step(run)
    assert server.runs[run_id]["groupName"] == "experiment"
    assert server.runs[run_id]["displayName"] == "experiment/first try"
    assert capfd.readouterr().err == f"W&B: {server.url}/me/lightning-subnets/runs/{run_id}\n" * 2


def test_a_run_of_a_sweep_agent_stays_one_run_when_it_is_resumed_without_the_agent(
    run: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as agent:
        for name, value in {"SWEEP_ID": "s", "RUN_ID": "abc", "PROJECT": "lightning-subnets"}.items():
            agent.setenv(f"WANDB_{name}", value)
        train(run, range(5))
    train(run, range(5, 9), resumed=True)
    assert list(server.runs) == ["abc"]
    assert on_server(server, run) == by_step(run)


def test_the_pictures_of_a_run_are_in_its_last_row(run: Path, server: WandbServer) -> None:
    Image.new("RGB", (4, 3), "red").save(run / "curves.png")
    dashboard = train(run, range(10), exit_code=None)
    add_pictures([dashboard], [run / "curves.png"])
    finish([dashboard], 0)
    picture = on_server(server, run)[9]["pictures/curves"]
    assert (picture["_type"], picture["width"], picture["height"]) == ("image-file", 4, 3)


def test_a_run_that_asks_to_be_requeued_is_preempted(run: Path, server: WandbServer) -> None:
    for exit_code, steps in ((os.EX_TEMPFAIL, range(5)), (0, range(5, 9))):
        server.streams.clear()
        train(run, steps, resumed=steps.start > 0, exit_code=exit_code)
        said = {key: value for part in server.streams[next(iter(server.runs))] for key, value in part.items()}
        assert said["exitcode"] == exit_code
        assert said.get("preempting", False) is (exit_code == os.EX_TEMPFAIL)


@pytest.mark.parametrize(
    "how", ["no key", *(pytest.param(how, marks=pytest.mark.thorough) for how in ("bad key", "refuses", "is silent"))]
)
def test_without_a_key_or_a_server_the_run_is_offline_and_synced_later(
    how: str, run: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    if how == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    elif how == "bad key":
        monkeypatch.setenv("WANDB_API_KEY", "too short")
    elif how == "refuses":
        server.stop()
    else:
        server.answering.clear()
    start = time.monotonic()
    train(run, range(12))
    assert time.monotonic() - start < 20
    server.answering.set()
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("W&B: ")
    assert said.endswith(f"so the run is logged offline; later: wandb sync {str(run)!r}/wandb/offline-run-*")
    with serving() as back:
        monkeypatch.setenv("WANDB_BASE_URL", back.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        sync(*run.glob("wandb/offline-run-*"))
        assert on_server(back, run) == by_step(run)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["refuses", "is silent"])
def test_a_server_that_is_lost_neither_ends_nor_stalls_the_run(
    how: str, run: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    dashboard = train(run, range(10), exit_code=None)
    if how == "refuses":
        server.stop()
    else:
        server.answering.clear()
    start = time.monotonic()
    for step in range(10, 1_010):
        dashboard.log_metrics({"loss": 1.0}, step)
    dashboard.finish(0)
    assert time.monotonic() - start < 30
    server.answering.set()
    assert len(capfd.readouterr().err.splitlines()) == 1  # the address of the run
    with serving() as back:
        monkeypatch.setenv("WANDB_BASE_URL", back.url)
        sync("--include-online", *run.glob("wandb/run-*"))
        assert list(on_server(back, run)) == list(range(1_010))


def test_the_parts_of_an_offline_run_have_one_id_and_are_synced_as_one(
    run: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(run, range(0, 90, 3))
    train(run, range(90, 120, 3), resumed=True)  # a signal stops a run at a checkpoint, so no step comes twice
    parts = sorted(run.glob("wandb/offline-run-*"))
    assert len(parts) == 2
    monkeypatch.delenv("WANDB_MODE")
    sync(*parts)
    assert on_server(server, run) == by_step(run)


def test_the_run_knows_its_config_name_versions_and_commit(
    run: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "7")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    config = {"model": {"method": {"density": 0.5}}, "seed_everything": 3}
    dashboard = Dashboard(str(run))
    dashboard.log_hyperparams(config)
    experiment = dashboard.experiment
    assert dict(experiment.config) == {"versions": versions(), **config}
    assert (experiment.settings.init_timeout, experiment.settings.finish_timeout) == (7, 30)
    dashboard.finish(0)
    (described,) = server.runs.values()
    assert described["commit"] == commit


def log_on_another_rank(run: Path) -> list[str]:
    """Log on rank 1, and return the modules of W&B that are loaded."""
    rank_zero_only.rank = 1  # type: ignore[attr-defined]
    dashboard = train(run, range(15))
    dashboard.experiment.anything()  # Lightning asks for it on every rank
    dashboard.log_hyperparams({"a": 1})
    dashboard.finalize("success")
    return [name for name in sys.modules if name.startswith("wandb.") and name != "wandb.wandb"]


@pytest.mark.thorough
def test_another_rank_creates_nothing_and_does_not_load_wandb(run: Path) -> None:
    assert on_ranks(log_on_another_rank, run, ranks=1) == [[]]
    assert not list(run.iterdir())


def kill_wandb() -> None:
    import wandb

    service: Any = wandb.setup()._connection
    service._proc._process.kill()
    service._proc._process.wait()


def test_wandb_dying_does_not_end_the_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    dashboard = train(run, range(12), exit_code=None)
    kill_wandb()
    for step in range(12, 40):
        dashboard.log_metrics({"loss": 1.0}, step)
    dashboard.finalize("success")
    dashboard.finish(0)
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("W&B has failed (")


@pytest.mark.parametrize("log_model", [True, "all"])
def test_wandb_dying_does_not_end_a_run_that_logs_its_checkpoints(
    log_model: Any, run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    dashboard, saved = Dashboard(str(run), log_model=log_model), ModelCheckpoint(dirpath=run)
    dashboard.log_metrics({"loss": 1.0}, 0)
    (run / "a.ckpt").write_bytes(b"x")
    saved.best_model_path = saved.last_model_path = str(run / "a.ckpt")
    kill_wandb()
    dashboard.after_save_checkpoint(saved)
    dashboard.finalize("success")
    assert capfd.readouterr().err.count("W&B has failed (") == 1


def test_wandb_dying_does_not_end_a_run_that_logs_its_config(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    dashboard = train(run, range(1), exit_code=None)
    kill_wandb()
    dashboard.log_hyperparams({"a": 1})
    dashboard.log_hyperparams({"b": 1})
    assert capfd.readouterr().err.count("W&B has failed (") == 1


@pytest.mark.thorough
def test_a_command_logs_its_config_and_histograms_and_a_saved_config_begins_another_run(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=3"]
    options += ["--trainer.logger=WandbLogger", "--trainer.callbacks+=ScoreHistograms", "--seed_everything=3"]
    main(["fit", "-c", str(QUICKSTART), *options])
    (run_id,) = server.runs
    shown = on_server(server, Path("runs/quickstart/version_0"))
    config = json.loads(server.runs[run_id]["config"])
    assert config["seed_everything"]["value"] == 3
    assert config["versions"]["value"]["lightning_subnets"]
    assert [line for line in capfd.readouterr().err.splitlines() if "W&B" in line or "wandb" in line.lower()] == [
        f"W&B: {server.url}/me/lightning-subnets/runs/{run_id}"
    ]
    saved = "runs/quickstart/version_0/config.yaml"
    logger = yaml.safe_load(Path(saved).read_text())["trainer"]["logger"][1]
    assert logger["class_path"] == "lightning_subnets.training.loggers.Dashboard"
    scores = [value for row in shown.values() for name, value in row.items() if name.startswith("scores/")]
    assert scores
    assert all(len(histogram["bins"]) == 65 for histogram in scores)
    without = {
        step: {k: v for k, v in row.items() if k.split("/")[0] not in ("scores", "pictures")}
        for step, row in shown.items()
    }
    assert without == by_step(Path("runs/quickstart/version_0"))
    main(["fit", "-c", saved, "--name=again", "--trainer.limit_val_batches=1"])
    assert [run["displayName"] for run in server.runs.values()] == ["quickstart/version_0", "again/version_0"]
