from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import yaml
from small_figure import CONFIG, FIGURE

from lightning_subnets.commands import cli
from lightning_subnets.commands.subnets import main
from lightning_subnets.errors import UserError
from lightning_subnets.experiments.sweep import results
from lightning_subnets.experiments.sweep.plan import PlannedRun, Sweep
from lightning_subnets.experiments.sweep.progress import SweepProgress
from lightning_subnets.experiments.sweep.results import directory_of
from lightning_subnets.experiments.sweep.running import Slot, run_all, slots
from lightning_subnets.run_files.run_directory import lock
from lightning_subnets.training import csv_text
from lightning_subnets.training.csv_text import Row


@pytest.fixture
def figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that writes the figure, with options of its scale, and returns its path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "small.yaml").write_text(CONFIG)

    def write(**options: Any) -> str:
        scale = FIGURE["scales"]["smoke"] | {"options": options}
        Path("figure.yaml").write_text(yaml.safe_dump(FIGURE | {"scales": {"smoke": scale}}))
        return "figure.yaml"

    return write


def rows() -> list[dict[str, str]]:
    with Path("out/figure-smoke/results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def summaries() -> dict[str, int]:
    """Return the time at which each finished run wrote its summary."""
    return {path.parent.name: path.stat().st_mtime_ns for path in Path("out/runs").glob("*/summary.json")}


def test_every_run_of_a_sweep_is_the_run_of_its_command(figure: Callable[..., str]) -> None:
    path = figure()
    failure = results.failure_of(next(Sweep.read(Path(path), "smoke").runs()).name, Path("out"))
    failure.parent.mkdir(parents=True)
    failure.write_text("an earlier time")
    main(["sweep", path, "--out=out", "--at_once=2"])
    assert not failure.exists()
    report = Path("out/figure-smoke/report")
    files = {"index.html", *(f"figure-smoke/{name}" for name in ("figure.png", "figure.pdf", "table.csv", "table.md"))}
    assert {str(path.relative_to(report)) for path in report.rglob("*.*")} == files
    assert [(row["status"], float(row["density"])) for row in rows()] == [("finished", 0.5), ("finished", 0.9)]
    row = rows()[1]
    assert row["command"].startswith("lightning fit -c configs/small.yaml --model.method.init_args.density=0.9 ")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cli.main([*row["command"].split()[1:], "--name=alone"])
    torch.set_num_threads(threads)
    alone = json.loads(Path("runs/alone/version_0/summary.json").read_text())
    assert (float(row["test_loss"]), row["weights_digest"]) == (alone["test_loss"], alone["weights_digest"])
    assert (float(row["kept"]), float(row["epochs"])) == (alone["kept"], 1)


@pytest.mark.thorough
def test_a_failed_run_does_not_stop_the_others_and_is_run_again(
    figure: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = figure()
    text = Path(path).read_text()
    Path(path).write_text(text.replace("0.9", "9"))
    with pytest.raises(SystemExit) as exit_info:
        main(["sweep", path, "--out=out"])
    assert exit_info.value.code == 1
    assert [(row["status"], row["test_accuracy"] != "") for row in rows()] == [("finished", True), ("failed", False)]
    assert rows()[1]["error"].startswith("density = 9.0 is outside (0, 1]")
    assert "failed: density = 9.0 is outside" in capfd.readouterr().err
    before = summaries()

    Path(path).write_text(text)
    main(["sweep", path, "--out=out"])
    assert [row["status"] for row in rows()] == ["finished", "finished"]
    assert before.items() <= summaries().items()
    assert len(summaries()) == 2
    done = summaries()
    main(["sweep", path, "--out=out"])
    assert summaries() == done


@pytest.mark.thorough
def test_no_more_runs_are_tried_if_the_first_three_fail_for_the_same_reason(
    figure: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(figure(**{"data.init_args.num_classes": 11}))
    path.write_text(path.read_text().replace("- 0.9", "- 0.6\n    - 0.7\n    - 0.8\n    - 0.9"))
    with pytest.raises(SystemExit):
        main(["sweep", str(path), "--out=out", "--at_once=1"])
    assert [row["status"] for row in rows()] == ["failed"] * 3 + ["missing"] * 2
    said = capfd.readouterr().err
    assert "the first 3 runs have failed for the same reason: the other 2 are not tried" in said


def test_runs_and_results_in_use_by_another_process_are_left_alone(
    figure: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = figure()
    used = [directory_of(run.name, Path("out")) for run in Sweep.read(Path(path), "smoke").runs()]
    for directory in used:
        directory.mkdir(parents=True)
    held = [lock(directory) for directory in used]
    with pytest.raises(SystemExit):
        main(["sweep", path, "--out=out"])
    assert [row["status"] for row in rows()] == ["missing", "missing"]
    assert capfd.readouterr().err.count("another process is making it") == 2
    held.append(lock(Path("out/figure-smoke")))
    with pytest.raises(SystemExit) as exit_info:
        main(["sweep", path, "--out=out"])
    assert exit_info.value.code == 2
    assert "another subnets sweep writes to out/figure-smoke" in capfd.readouterr().err
    for descriptor in held:
        os.close(descriptor)


def test_a_sweep_that_cannot_write_its_table_stops_its_runs_and_says_so(
    figure: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(figure())
    path.write_text(path.read_text().replace("0.9", "9"))  # fails soon, beside a run that is still under way
    sweep, tables = Sweep.read(path, "smoke"), iter([csv_text.table])

    def full_disk(rows: list[Row]) -> str:
        for table in tables:
            return table(rows)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_subnets.training.csv_text.table", full_disk)
    with pytest.raises(UserError, match=r"no results can be kept in out/figure-smoke \(No space left on device\)"):
        run_all(sweep, Path("out"), [Slot("", 1), Slot("", 1)], cli.main)
    assert running() == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_time_left_counts_from_the_start_of_the_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("rich.console.monotonic", lambda: clock[0])
    progress = SweepProgress("figure", done=10, total=250)
    clock[0] += 100
    for seed in range(4):  # four runs at once
        progress.ended(PlannedRun("ours", {}, seed, (), ""), {"status": "finished", "test_accuracy": 0.5})
    left = timedelta(seconds=100 / 4 * 236)
    assert capsys.readouterr().err.splitlines()[-1] == f"14/250, {left} left: ours, seed 3: 50.00%"


def started(path: str, *options: str) -> subprocess.Popen[str]:
    """Start a sweep in a process of its own, and wait until a run of it has written a checkpoint."""
    began = time.time()
    program = "from lightning_subnets.commands.subnets import main; main()"
    command = [sys.executable, "-c", program, "sweep", path, "--out=out"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, start_new_session=True)

    def has_saved() -> bool:
        assert process.poll() is None
        return saved_since(began)

    wait_until(has_saved)
    return process


def saved_since(began: float) -> bool:
    """Return whether a run has written a checkpoint."""
    return any(path.stat().st_mtime > began for path in Path("out").glob("runs/*/checkpoints/last.ckpt"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running() -> list[int]:
    """Return the processes that have a file in a run's directory open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [Path(os.readlink(each)) for each in (process / "fd").iterdir()]
            if any(Path("out/runs").resolve() in file.parents for file in files):
                found.append(int(process.name))
        except OSError:
            pass  # it has ended
    return found


@pytest.mark.thorough
def test_a_stopped_sweep_saves_and_resumes_and_the_row_of_a_killed_run_says_why(
    figure: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    long = figure(**{"trainer.max_epochs": 3000, "trainer.limit_val_batches": 0})

    def stop_when_a_run_has_saved() -> None:
        wait_until(lambda: saved_since(0.0))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = Thread(target=stop_when_a_run_has_saved)
    thread.start()
    with pytest.raises(SystemExit) as exit_info:
        main(["sweep", long, "--out=out", "--at_once=1"])
    thread.join()
    assert exit_info.value.code == 128 + signal.SIGTERM
    assert "stopped; the same command resumes it" in capfd.readouterr().err
    assert [row["status"] for row in rows()] == ["missing", "missing"]
    assert running() == []
    (run,) = Path("out/runs").glob("*/checkpoints")
    step = torch.load(run / "last.ckpt", weights_only=True)["global_step"]

    process = started(long, "--at_once=1")
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] > step
    first = running()
    for each in first:
        os.kill(each, signal.SIGKILL)
    wait_until(lambda: running() not in ([], first))
    assert rows()[0]["error"] == "killed by SIGKILL, perhaps for memory"
    process.kill()
    process.communicate(timeout=300)
    wait_until(lambda: not running())


def test_runs_share_gpus_and_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 16)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [(slot.device, slot.threads) for slot in slots(3, 1)] == [("0", 2), ("1", 2)] * 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [slot.device for slot in slots(1, 4)] == ["5", "7"]
    assert [slot.device for slot in slots(None, 2)] == ["5", "7"] * 2
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert [(slot.device, slot.threads) for slot in slots(3, 1)] == [("", 5)] * 3
    assert [(slot.device, slot.threads) for slot in slots(None, 4)] == [("", 1)] * 16
    assert [(slot.device, slot.threads) for slot in slots(None, 4, at_most=2)] == [("", 8)] * 2
