"""Two ranks train one network, stop together, resume together or alone, and end if one of them is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from fit_process import finish, start_fit, wait_until_it_trains
from lightning.fabric.utilities.rank_zero import rank_zero_only
from rank_processes import on_ranks
from repository import ROOT

from lightning_subnets.commands.cli import main

pytestmark = pytest.mark.thorough

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
# 1437 images are 718 a rank: the last batch is a smaller one, and one image is left out of each epoch.
# Without norms, because on several ranks their running statistics are equal up to rounding only.
OPTIONS = ["--data.batch_size=36", "--model.lr_batch_size=72", "--trainer.max_epochs=4", "--model.network.norm=none"]
COMMAND = ["fit", "-c", QUICKSTART, "--trainer.accelerator=cpu", *OPTIONS]


def start(folder: Path, version: str, *options: str) -> subprocess.Popen[str]:
    return start_fit(folder, *OPTIONS, *options, "--trainer.devices=2", f"--version={version}")


def fit_on_a_rank(arguments: list[str]) -> None:
    # Lightning sets this when it is imported, which was before the fork.
    rank_zero_only.rank = int(os.environ["LOCAL_RANK"])  # type: ignore[attr-defined]
    main(arguments)


def second_rank(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (rank,) = (int(pid) for pid in children if b"lightning_subnets" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return rank


def last(folder: Path, version: str) -> dict[str, Any]:
    path = folder / "runs" / "quickstart" / version / "checkpoints" / "last.ckpt"
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def summary_of(folder: Path, version: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "runs" / "quickstart" / version / "summary.json").read_text())
    return content


def test_a_signal_to_one_rank_stops_both_and_both_or_one_alone_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"--trainer.default_root_dir={tmp_path / 'runs'}"
    on_ranks(fit_on_a_rank, [*COMMAND, folder, "--trainer.devices=2", "--version=whole"], limit=240.0)
    whole = summary_of(tmp_path, "whole")
    assert whole["processes"] == 2
    assert whole["weights_unchanged"] is True
    # Each of the 360 test images is counted exactly once.
    assert whole["test_accuracy"] * 360 == pytest.approx(round(whole["test_accuracy"] * 360), abs=1e-3)

    process = start(tmp_path, "stopped")
    wait_until_it_trains(process)
    os.kill(second_rank(process), signal.SIGUSR1)
    assert "stopped by SIGUSR1" in process.communicate(timeout=120)[1]
    assert process.returncode == 75
    step = last(tmp_path, "stopped")["global_step"]
    assert 0 < step < 80
    shutil.copytree(tmp_path / "runs/quickstart/stopped", tmp_path / "runs/quickstart/alone")

    assert "Warning" not in finish(start(tmp_path, "stopped"))
    assert {path.name for path in (tmp_path / "runs/quickstart").iterdir()} == {"whole", "stopped", "alone"}
    expected, found = last(tmp_path, "whole"), last(tmp_path, "stopped")
    assert all(torch.equal(value, found["state_dict"][key]) for key, value in expected["state_dict"].items())

    monkeypatch.chdir(tmp_path)
    main([*COMMAND, "--trainer.devices=1", "--version=alone"])
    said = capsys.readouterr().err
    assert "trainer.devices = 1 instead of 2" in said
    assert (
        f"resuming at step {step} with 1 x 36 images a step, 40 batches an epoch, instead of 2 x 36 images a step"
        in said
    )
    found = last(tmp_path, "alone")
    assert found["lr_schedulers"][0]["last_epoch"] == 4 * 40  # 1437 / 36: the schedule ends with the run
    assert found["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.0015
    assert summary_of(tmp_path, "alone")["weights_digest"] == whole["weights_digest"]


def test_a_killed_rank_ends_the_run_with_one_message(tmp_path: Path) -> None:
    process = start(tmp_path, "killed", "--trainer.max_epochs=1000")
    wait_until_it_trains(process)
    os.kill(second_rank(process), signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "error: rank 0 has lost another process of this run" in said
    assert "Traceback" not in said
