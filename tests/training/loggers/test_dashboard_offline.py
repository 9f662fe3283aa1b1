"""Offline runs are read back from W&B's own file and compared with the CSV file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

from lightning_subnets._version import versions
from lightning_subnets.training.loggers import Dashboard, MetricsFile, finish
from lightning_subnets.training.loggers.metrics_file import rows_before
from lightning_subnets.training.loggers.wandb_file import history, records

END = 10**9


def train(run: Path, steps: range, *, resumed: bool = False, ends: int | None = 0) -> Dashboard:
    """Log as Lightning does: loss at each step, and at each tenth accuracy and then, by itself, the epoch's loss."""
    if resumed:
        time.sleep(1.1)  # wandb names the directory of a part by the second
    step = steps.start if resumed else None
    loggers = [MetricsFile(str(run), step=step), Dashboard(str(run), step=step)]
    for step in steps:
        rows = [{"loss": 1 / (step + 1), "epoch": step // 10}]
        if step % 10 == 9:
            rows += [{"accuracy": step / 7, "epoch": step // 10}, {"loss_epoch": 1e-5 * step, "epoch": step // 10}]
        for row in rows:
            for logger in loggers:
                logger.log_metrics(row, step)
                logger.save()
    if ends is not None:
        finish(loggers, ends)
    assert isinstance(loggers[1], Dashboard)
    return loggers[1]


def on_disk(run: Path) -> list[dict[str, Any]]:
    """The rows of all of a run's W&B files, in the order in which they were begun."""
    paths = sorted(run.glob("wandb/*run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [row for path in paths for row in history(path)]


def in_csv(run: Path) -> dict[int, dict[str, float]]:
    rows: dict[int, dict[str, float]] = defaultdict(dict)
    for step, row in rows_before(run, END):
        rows[step].update(row)
    return dict(rows)


def logged(rows: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    return {row["_step"]: {name: v for name, v in row.items() if not name.startswith("_")} for row in rows}


def steps_of(rows: list[dict[str, Any]]) -> list[int]:
    return [row["_step"] for row in rows]


def ids(run: Path) -> set[str]:
    return {path.name.rpartition("-")[2] for path in run.glob("wandb/*run-*")}


@pytest.fixture
def run(tmp_path: Path, no_account: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "experiment" / "version_0"
    folder.mkdir(parents=True)
    return folder


def test_an_offline_run_holds_what_the_csv_file_holds(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(run, range(1500))
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    assert path.stat().st_size > 3 * 32768  # several blocks
    assert logged(on_disk(run)) == in_csv(run)
    assert steps_of(on_disk(run)) == list(range(1500))
    assert capfd.readouterr() == ("", "")


def test_a_run_in_two_parts_has_one_id_and_a_step_that_only_grows(run: Path) -> None:
    train(run, range(25))
    train(run, range(17, 40), resumed=True)  # killed: the checkpoint is older than the last row
    assert len(list(run.glob("wandb/offline-run-*/*.wandb"))) == 2
    assert ids(run) == {(run / "wandb" / "run_id").read_text()}
    assert steps_of(on_disk(run)) == list(range(40))
    assert logged(on_disk(run)) == in_csv(run)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_rows_that_the_dashboards_file_lost_are_sent_when_the_run_goes_on(run: Path, share: float) -> None:
    train(run, range(300))
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    os.truncate(path, int(share * path.stat().st_size))
    assert len(on_disk(run)) < 300
    train(run, range(290, 310), resumed=True)
    assert steps_of(on_disk(run)) == list(range(310))
    assert logged(on_disk(run)) == in_csv(run)


def test_a_damaged_file_of_the_dashboards_is_read_as_far_as_it_goes(run: Path) -> None:
    train(run, range(300))
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = b"\xff" * 4096  # what a machine that lost power has left there
    path.write_bytes(content)
    before = steps_of(on_disk(run))
    assert before == list(range(len(before)))
    assert 0 < len(before) < 300
    train(run, range(290, 310), resumed=True)
    assert len(list(run.glob("wandb/offline-run-*"))) == 2


def test_a_run_that_was_killed_goes_on_as_one(run: Path) -> None:
    code = "import os, signal; from pathlib import Path; from test_dashboard_offline import train; "
    code += f"train(Path({str(run)!r}), range(35), ends=None); os.kill(os.getpid(), signal.SIGKILL)"
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    assert killed.returncode == -signal.SIGKILL
    train(run, range(22, 50), resumed=True)
    assert len(ids(run)) == 1
    assert steps_of(on_disk(run)) == list(range(50))
    assert logged(on_disk(run)) == in_csv(run)


def test_the_run_knows_its_config_group_name_and_the_codes_versions_and_commit(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = run.parents[1] / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    dashboard = Dashboard(str(run))
    dashboard.log_hyperparams({"model": {"method": {"density": 0.5}}, "seed_everything": 3})
    experiment = dashboard.experiment
    assert dict(experiment.config) == {
        "versions": versions(),
        "model": {"method": {"density": 0.5}},
        "seed_everything": 3,
    }
    assert (experiment.name, experiment.group, experiment.project) == (
        "experiment/version_0",
        "experiment",
        "lightning-subnets",
    )
    dashboard.finish(0)
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    assert [record.run.git.commit for record in records(path) if record.HasField("run")] == [commit]


def test_a_server_is_waited_for_half_a_minute_unless_the_environment_says_otherwise(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "7")
    dashboard = Dashboard(str(run))
    settings = dashboard.experiment.settings
    assert (settings.init_timeout, settings.finish_timeout) == (7, 30)
    dashboard.finish(0)


def test_another_rank_creates_nothing_and_does_not_load_wandb(run: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from lightning.fabric.utilities.rank_zero import rank_zero_only
rank_zero_only.rank = 1
from test_dashboard_offline import train
dashboard = train(Path({str(run)!r}), range(15))
dashboard.experiment.anything()  # which Lightning asks for on every rank
dashboard.log_hyperparams({{"a": 1}})
dashboard.finalize("success")
assert not [name for name in sys.modules if name.startswith("wandb.") and name != "wandb.wandb"], "wandb is loaded"
"""
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert not list(run.iterdir())


def test_a_disabled_dashboard_is_none(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    train(run, range(15))
    assert not list(run.glob("wandb/*run-*"))


def test_wandb_dying_does_not_end_the_run(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dashboard = train(run, range(12), ends=None)
    import wandb

    service: Any = wandb.setup()._connection
    service._proc._process.kill()
    service._proc._process.wait()
    for step in range(12, 40):
        dashboard.log_metrics({"loss": 1.0}, step)
    dashboard.finalize("success")
    dashboard.finish(0)
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("W&B has failed (")
