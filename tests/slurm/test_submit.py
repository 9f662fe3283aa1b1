"""``subnets sweep --slurm`` and ``--status`` on the cluster, with a figure of two runs or three."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_figure

from lightning_subnets.commands.subnets import main

from .cluster import Job, wait_for
from .site import ENVIRONMENT, Site

PROGRAM = [sys.executable, "-c", "from lightning_subnets.commands.subnets import main; main()", "sweep"]
CONFIG = small_figure.CONFIG.replace("max_epochs: 1", "max_epochs: 2")
HOLD = {"class_path": "slurm.hold.Hold", "init_args": {"step": 4}}
SMALL = ("--gpus=0", "--cpus=1")


class Login:
    """A shell on the login node, in a directory with the figure ``small``.

    Its runs wait in the middle of the second epoch for a signal, or for a file ``go``.
    """

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.cluster, self.directory, self._capsys = site.cluster, site.directory, capsys
        monkeypatch.chdir(site.directory)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        own = {"SLURM_CONF": site.cluster.environment["SLURM_CONF"], "HOME": str(site.directory), "USER": "ada"}
        for name, value in (ENVIRONMENT | own).items():
            monkeypatch.setenv(name, value)
        Path("base.yaml").write_text(CONFIG)
        self.figure("small", 0.5, 0.9)

    def figure(self, name: str, *densities: float, **options: Any) -> None:
        content = {
            "title": name,
            "source": "nobody",
            "caption": "Accuracy by density.",
            "axes": {"density": {"model.method.init_args.density": [*densities]}},
            "lines": {"ours": {"config": "base.yaml"}},
            "plots": [{"x": "density"}],
            "scales": {
                "smoke": {
                    "configs": ".",
                    "note": "digits",
                    "seeds": [0],
                    "options": {"trainer.callbacks": [HOLD]} | options,
                }
            },
        }
        Path(f"{name}.yaml").write_text(json.dumps(content))

    def sweep(self, *options: str, figure: str = "small") -> str:
        """Return what ``subnets sweep`` prints."""
        self._capsys.readouterr()
        main(["sweep", f"{figure}.yaml", *options])
        return self._capsys.readouterr().out

    def submit(self, *options: str, runs: int = 2) -> list[Job]:
        """Submit the figure, and return the tasks of its runs."""
        said = self.sweep("--slurm", *(options or SMALL))
        found = re.search(rf"submitted {runs} as job (\d+)", said)
        assert found, said
        job = Job(self.cluster, found[1], self.directory)
        return job.tasks(*range(runs)) if runs > 1 else [job]

    def status(self) -> list[str]:
        """Return the counts, and the lines of the table."""
        said = self.sweep("--status").splitlines()
        assert Path("runs/figures/small-smoke/report/index.html").is_file()
        return [line for line in said if not line.startswith(("small-smoke:", "report:"))]

    def release(self) -> None:
        Path("go").touch()


@pytest.fixture
def login(site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Login:
    return Login(site, monkeypatch, capsys)


def wait_until_held(job: Job, rank: int = 0) -> None:
    """Wait until a rank of a run waits in ``Hold``."""

    def is_held() -> bool:
        assert job.state in ("PENDING", "CONFIGURING", "RUNNING"), [log.read_text() for log in Path().rglob("*.log")]
        return Path(f"held-{own_number(job)}-{rank}").exists()

    wait_for(is_held, f"rank {rank} of {job.number} in Hold", job.cluster.log)


def own_number(job: Job) -> str:
    """Return SLURM_JOB_ID, which each task of an array has for itself once it runs."""
    return job.field("JobId")


def where(job: Job) -> str:
    return job.field("NodeList")


def test_a_killed_run_is_submitted_again_and_resumes_while_the_others_are_left_alone(login: Login) -> None:
    tasks = login.submit()
    for task in tasks:
        wait_until_held(task)
    counts, *table = login.status()
    assert counts == "2 runs: 2 running"
    for task, line, density in zip(tasks, table, (0.5, 0.9), strict=True):
        assert re.fullmatch(
            rf"running  ours, density {density}, seed 0  \d+:\d\d( epoch 1)?; job {task.number} of root", line
        )
    assert "nothing to submit" in login.sweep("--slurm", *SMALL)

    os.kill(login.cluster.processes(f"SLURM_JOB_ID={own_number(tasks[1])}", "SLURM_STEP_ID=0")[-1], signal.SIGKILL)
    assert tasks[1].wait_for_end() == "FAILED"
    login.release()
    assert tasks[0].wait_for_end() == "COMPLETED"
    assert login.status() == [
        "2 runs: 1 done, 1 failed",
        "failed   ours, density 0.9, seed 0  killed by SIGKILL, perhaps for memory",
    ]
    (again,) = login.submit(runs=1)
    assert again.wait_for_end() == "COMPLETED"
    assert login.status() == ["2 runs: 2 done"]
    (log,) = Path("runs/figures/runs").glob("*density=0.9*.log")
    assert "resuming in epoch 2, after step 3" in log.read_text()


def test_a_run_that_fails_says_why(login: Login) -> None:
    login.release()
    login.figure("small", 0.5, 9)
    tasks = login.submit(*SMALL)
    assert [task.wait_for_end() for task in tasks] == ["COMPLETED", "FAILED"]
    counts, reason = login.status()
    assert counts == "2 runs: 1 done, 1 failed"
    assert reason.startswith("failed   ours, density 9, seed 0  density = 9.0 is outside (0, 1]")


def test_the_task_at_its_time_limit_requeues_only_itself_with_all_processes_of_its_gpus(login: Login) -> None:
    first, second = login.submit("--gpus=2", "--cpus=2")
    for task in (first, second):
        for rank in range(2):
            wait_until_held(task, rank)
    first.bring_time_limit_near()
    first.wait_for_requeue()
    first.update("TimeLimit=60")
    login.release()
    assert [task.wait_for_end() for task in (first, second)] == ["COMPLETED"] * 2
    assert [task.field("Restarts") for task in (first, second)] == ["1", "0"]
    summaries = [json.loads(path.read_text()) for path in Path("runs/figures/runs").glob("*/summary.json")]
    assert [(each["processes"], each["steps"]) for each in summaries] == [(2, 6)] * 2
    assert login.status() == ["2 runs: 2 done"]


def test_a_preempted_run_saves_itself_and_resumes(login: Login) -> None:
    task, other = login.submit(*SMALL, "--max_jobs=1")
    wait_until_held(task)
    urgent = ("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true")
    login.cluster.command(*urgent, directory=login.directory)
    task.wait_for_requeue()
    login.release()
    assert [each.wait_for_end() for each in (task, other)] == ["COMPLETED"] * 2
    assert "resuming in epoch 2, after step" in next(Path("runs/figures/runs").glob("*density=0.5*.log")).read_text()


def test_runs_of_a_lost_node_are_made_when_the_node_is_back(login: Login) -> None:
    tasks = login.submit()
    for task in tasks:
        wait_until_held(task)
    node = where(tasks[0])
    lost = [task for task in tasks if where(task) == node]
    with login.cluster.without(node):
        login.release()
        # SLURM takes minutes to notice, and more if a node is back at once and its jobs had just begun.
        login.cluster.command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
    for task in lost:
        task.wait_for_requeue(seconds=5)
    assert [task.wait_for_end() for task in tasks] == ["COMPLETED"] * 2
    assert {task.field("Restarts") for task in lost} == {"1"}
    assert login.status() == ["2 runs: 2 done"]


def test_jobs_of_a_submission_that_was_killed_are_found_by_their_name(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = Path("bin/sbatch")
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} --hold "$@"\nkill -KILL $PPID\n')
    sbatch.chmod(0o755)
    path = f"{sbatch.parent.absolute()}:{os.environ['PATH']}"
    killed = subprocess.run([*PROGRAM, "small.yaml", "--slurm", *SMALL], env=os.environ | {"PATH": path})
    assert killed.returncode == -signal.SIGKILL

    assert "nothing to submit" in login.sweep("--slurm", *SMALL)
    for file in Path("runs/figures/submissions").glob("*.json"):
        os.utime(file, (0, 0))  # so old that it cannot be under way
    counts, *table = login.status()
    assert counts == "2 runs: 2 waiting"
    assert all("JobHeldUser; job " in line for line in table)
    assert "nothing to submit" in login.sweep("--slurm", *SMALL)
    number = re.search(r"job (\d+)_0", table[0])
    assert number
    login.cluster.command("scancel", number[1])
    login.release()
    assert [task.wait_for_end() for task in login.submit()] == ["COMPLETED"] * 2


def test_two_users_who_submit_at_once_submit_each_run_once(login: Login) -> None:
    login.figure("other", 0.9, 0.7)
    before = os.umask(0o002)
    try:
        processes = [
            subprocess.Popen(
                [*PROGRAM, f"{figure}.yaml", "--slurm", *SMALL],
                env=os.environ | {"USER": user},
                stdout=subprocess.PIPE,
                text=True,
            )
            for user, figure in (("ada", "small"), ("ben", "small"), ("cyn", "other"))
        ]
        said = [process.communicate()[0] for process in processes]
        login.sweep("--status")
    finally:
        os.umask(before)
    assert [process.returncode for process in processes] == [0] * 3
    files = [json.loads(path.read_text()) for path in Path("runs/figures/submissions").glob("*.json")]
    submitted = [run for each in files for run in each["runs"]]
    assert len(submitted) == len({*submitted}) == 3, said
    login.release()
    for each in files:
        for task in range(len(each["runs"])):
            suffix = f"_{task}" if len(each["runs"]) > 1 else ""
            assert Job(login.cluster, f"{each['job']}{suffix}", login.directory).wait_for_end() == "COMPLETED"
    closed = [path for path in Path("runs").rglob("*") if not path.stat().st_mode & stat.S_IWGRP]
    assert closed == [], "the group may continue all of it"
    assert login.status() == ["2 runs: 2 done"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--partition=nowhere",), "invalid partition specified: nowhere"),
        (("--time=soon",), "Invalid --time specification"),
    ],
)
def test_sbatch_says_what_it_refuses(
    login: Login, options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        login.sweep("--slurm", *options)
    assert ended.value.code == 2
    assert re.search(f"error: sbatch refuses the runs: .*{words}", capsys.readouterr().err)
    assert not [*Path("runs/figures/submissions").glob("*.json")]
    assert login.status()[0] == "2 runs: 2 not submitted"
