from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_dashboard_offline import in_csv, logged, on_disk, steps_of, train
from wandb_server import WandbServer, serving


def sync(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "wandb", "sync", *map(str, arguments)]
    home = os.environ["HOME"]  # where it writes logs of its own
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=home)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def run(tmp_path: Path, server: WandbServer) -> Path:
    folder = tmp_path / "experiment" / "version_0"
    folder.mkdir(parents=True)
    return folder


def test_the_server_holds_what_the_csv_file_holds(
    run: Path, server: WandbServer, capfd: pytest.CaptureFixture[str]
) -> None:
    train(run, range(25))
    (run_id,) = server.runs
    assert logged(server.history(run_id)) == in_csv(run)
    assert server.runs[run_id]["groupName"] == "experiment"
    assert server.runs[run_id]["displayName"] == "experiment/version_0"
    assert capfd.readouterr().err == f"W&B: {server.url}/me/lightning-subnets/runs/{run_id}\n"


def test_a_run_that_goes_on_is_the_same_run_on_the_server(
    run: Path, server: WandbServer, capfd: pytest.CaptureFixture[str]
) -> None:
    train(run, range(25))
    train(run, range(17, 40), resumed=True)
    (run_id,) = server.runs
    assert steps_of(server.history(run_id)) == list(range(40))
    assert logged(server.history(run_id)) == in_csv(run)
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_a_run_that_asks_to_be_requeued_is_preempted_and_one_that_ends_is_finished(
    run: Path, server: WandbServer
) -> None:
    train(run, range(5), ends=os.EX_TEMPFAIL)
    (run_id,) = server.runs
    said = {key: value for part in server.streams[run_id] for key, value in part.items()}
    assert (said["preempting"], said["exitcode"]) == (True, 75)
    server.streams.clear()
    train(run, range(5, 9), resumed=True)
    said = {key: value for part in server.streams[run_id] for key, value in part.items()}
    assert "preempting" not in said
    assert said["exitcode"] == 0


@pytest.mark.parametrize("how", ["refuses", "does not answer"])
def test_a_server_that_cannot_be_reached_at_the_start_makes_the_run_offline(
    how: str, run: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    if how == "refuses":
        server.stop()
    else:
        server.answering.clear()
    start = time.monotonic()
    train(run, range(12))
    assert time.monotonic() - start < 20
    server.answering.set()
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("W&B: the server did not take the run (")
    assert said.endswith(f"so the run is logged offline; later: wandb sync {run}/wandb/offline-run-*")
    assert logged(on_disk(run)) == in_csv(run)


@pytest.mark.parametrize("how", ["refuses", "does not answer"])
def test_a_server_that_is_lost_in_the_middle_neither_ends_nor_stalls_the_run(
    how: str, run: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    dashboard = train(run, range(10), ends=None)
    if how == "refuses":
        server.stop()
    else:
        server.answering.clear()
    start = time.monotonic()
    for step in range(10, 5_010):
        dashboard.log_metrics({"loss": 1.0}, step)
    logging = time.monotonic() - start
    dashboard.finish(0)
    ending = time.monotonic() - start - logging
    server.answering.set()
    assert logging < 30  # of 5,000 logging intervals
    assert ending < 20
    assert len(capfd.readouterr().err.splitlines()) == 1  # its address
    assert steps_of(on_disk(run)) == list(range(5_010))  # wandb sync --include-online sends the rest


def test_rows_that_did_not_reach_the_server_do_so_when_the_run_goes_on(run: Path, server: WandbServer) -> None:
    train(run, range(25))
    (run_id,) = server.runs
    for place in range(12, 25):
        del server.rows[run_id][place]
    train(run, range(17, 30), resumed=True)
    assert steps_of(server.history(run_id)) == list(range(30))
    assert logged(server.history(run_id)) == in_csv(run)


def test_a_key_that_the_server_does_not_take_makes_the_run_offline(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "too short")
    train(run, range(3))
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("W&B: ")
    assert "offline" in said


def test_offline_parts_are_joined_by_syncing_them(
    run: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(run, range(25))
    train(run, range(17, 40), resumed=True)
    monkeypatch.delenv("WANDB_MODE")
    parts = list(run.glob("wandb/offline-run-*"))
    assert len(parts) == 2
    sync(*parts)
    assert list(server.runs) == [(run / "wandb" / "run_id").read_text()]
    (run_id,) = server.runs
    assert steps_of(server.history(run_id)) == list(range(40))
    assert logged(server.history(run_id)) == in_csv(run)


def test_what_a_lost_server_missed_is_synced_later(
    run: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    dashboard = train(run, range(10), ends=None)
    server.stop()
    dashboard.log_metrics({"loss": 1.0}, 10)
    dashboard.finish(0)
    with serving() as back:
        monkeypatch.setenv("WANDB_BASE_URL", back.url)
        sync("--include-online", *run.glob("wandb/run-*"))
        assert steps_of(back.history((run / "wandb" / "run_id").read_text())) == list(range(11))
