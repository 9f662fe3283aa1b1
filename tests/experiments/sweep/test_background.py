"""``subnets sweep --slurm`` on a machine without SLURM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_stand_in import OUT, write_figure

from lightning_subnets.commands.subnets import main
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.experiments.sweep.running import Slot
from lightning_subnets.run_files.run_directory import in_use
from lightning_subnets.training.csv_text import Row


@pytest.mark.thorough
def test_without_slurm_the_runs_are_made_in_the_background_without_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_figure(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    program = "from lightning_subnets.commands.subnets import main; main()"
    command = [sys.executable, "-c", program, "sweep", "figure.yaml", "--out=out", "--slurm"]
    options = ["--partition=big", "--max_jobs=1"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        said = process.communicate()[0]  # ends when no process has the pipe any more
    assert process.returncode == 0
    assert "no SLURM here (there is no sbatch), so this machine makes the runs in the background" in said
    assert "without --partition\n" in said
    with pytest.raises(ProcessLookupError):  # nothing is left to be ended with the terminal
        os.killpg(process.pid, signal.SIGHUP)
    main(command[3:])
    assert "nothing to submit" in capsys.readouterr().out
    wait_until(lambda: len([*OUT.glob("runs/*/summary.json")]) == 2)
    main([*command[3:-1], "--status"])
    assert capsys.readouterr().out.startswith("2 runs: 2 done\n")
    wait_until(lambda: not in_use(OUT / "figure-smoke"))
    assert not Path("state").exists()
    (log,) = OUT.glob("submissions/figure-smoke-*.log")
    wait_until(lambda: "\n2/2, " in log.read_text())


def test_nothing_is_left_of_a_process_that_cannot_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_figure(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "figure.yaml", "--out=out", "--slurm"])
    assert ended.value.code == 2
    assert "started in the background (No such file or directory): try again, or leave" in capsys.readouterr().err
    assert not [*OUT.glob("submissions/*-*")]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(("gpus", "options", "runs"), [(0, ["--max_jobs=3"], 3), (0, [], 8), (1, [], 5)])
def test_the_background_makes_as_many_runs_at_a_time_as_asked(
    gpus: int, options: list[str], runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_figure(tmp_path, monkeypatch)
    Path("figure.yaml").write_text(Path("figure.yaml").read_text().replace("note:", "at_once: 5\n    note:"))
    programs, slots = list[str](), list[Slot]()

    def begun(*arguments: Any) -> int:
        programs.append(arguments[-1][-1])
        return 1

    def run_all(sweep: Sweep, out: Path, free: list[Slot], command: object) -> list[Row]:
        slots.extend(free)
        return []

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("lightning_subnets.experiments.sweep.background.to_background", begun)
    monkeypatch.setattr("lightning_subnets.experiments.sweep.running.run_all", run_all)
    monkeypatch.setattr("lightning_subnets.experiments.report.report", lambda *_: None)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    main(["sweep", "figure.yaml", "--out=out", "--slurm", *options])
    exec(programs[0], {})
    assert len(slots) == runs
