"""A run that is killed at any moment and started again ends as an uninterrupted one."""

from __future__ import annotations

import csv
import json
import random
import resource
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from fit_process import QUICKSTART, finish, start_fit, wait_until_it_trains

from lightning_subnets.commands.cli import main

OPTIONS = ["--trainer.max_epochs=4", "--trainer.log_every_n_steps=5", "--version=run"]
SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    folder, threads = tmp_path_factory.mktemp("whole"), torch.get_num_threads()
    torch.set_num_threads(1)  # as start_fit sets it
    main(["fit", "-c", QUICKSTART, "--trainer.accelerator=cpu", f"--trainer.default_root_dir={folder}", *OPTIONS])
    torch.set_num_threads(threads)
    return folder / "quickstart/run"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "number",
    [1, *(pytest.param(n, marks=pytest.mark.long) for n in (0, *range(2, 50)))],
)
def test_a_run_killed_at_a_random_moment_and_started_again_ends_as_the_uninterrupted_one(
    number: int, whole: Path, tmp_path: Path
) -> None:
    process, draw = start_fit(tmp_path, *OPTIONS), random.Random(number)
    signum, seconds = SIGNALS[number % 3], json.loads((whole / "summary.json").read_text())["seconds"]
    if number % 5:
        wait_until_it_trains(process)
    try:
        # During training, its test and its report, or before, while the process starts.
        process.wait(draw.uniform(0, seconds + 1) if number % 5 else draw.uniform(0, 5))
    except subprocess.TimeoutExpired:
        process.send_signal(signum)
    said = process.communicate(timeout=120)[1]
    assert process.returncode in (0, 1, 128 + signum, -signum), said  # 1: interrupted while Python was importing
    if process.returncode:
        finish(start_fit(tmp_path, *OPTIONS))
    run = tmp_path / "runs/quickstart/run"
    assert_equal(run, whole)
    assert not list(run.rglob("*.partial"))


@pytest.mark.thorough
def test_a_disk_that_becomes_full_does_not_end_the_run(tmp_path: Path) -> None:
    def no_large_file() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # a checkpoint is three times as large

    said = finish(start_fit(tmp_path, "--trainer.max_epochs=2", preexec_fn=no_large_file))
    assert "last.ckpt could not be written" in said
    run = tmp_path / "runs/quickstart/version_0"
    assert json.loads((run / "summary.json").read_text())["epochs"] == 2
    assert not list(run.rglob("*.ckpt")) + list(run.rglob("*.partial"))


def assert_equal(run: Path, expected: Path) -> None:
    """Scores and momenta, every row that was logged, and what the summary says, but for times."""
    contents = [torch.load(path / "checkpoints/last.ckpt", weights_only=True) for path in (run, expected)]
    states = [(content["state_dict"], content["optimizer_states"][0]["state"]) for content in contents]
    torch.testing.assert_close(*states, rtol=0.0, atol=0.0)
    assert rows(run) == rows(expected)
    summaries = [json.loads((path / "summary.json").read_text()) for path in (run, expected)]
    for summary in summaries:
        assert summary.pop("seconds") > 0
        assert summary.pop("finished").startswith("20")
    assert summaries[0] == summaries[1]


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of ``metrics.csv``, without what was measured by a clock."""
    clocked = ("train/images_per_second", "train/images_per_second_step", "train/data_wait", "train/data_wait_step")
    with (run / "metrics.csv").open(newline="") as file:
        found = [{key: value for key, value in row.items() if key not in clocked} for row in csv.DictReader(file)]
    return [row for row in found if any(value for key, value in row.items() if key not in ("epoch", "step"))]
