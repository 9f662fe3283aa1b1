"""The rehearsal of ImageNet: from archives like its own to the answers of exported files, with a stop and a kill."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

PROGRAM = ROOT / "data" / "rehearse_imagenet.py"
# ResNet-50 of an eighth of the width, and Wide ResNet-50 of a sixteenth.
NARROW = ["--model.network=torchvision.models.resnet50", "--model.network.width_per_group=8"]


@pytest.mark.thorough
def test_an_imagenet_run_works_from_its_archives_to_its_answers(photographs: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), str(photographs), "--out", str(tmp_path / "rehearsal"), *NARROW]
    job = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "rehearsal"}  # as sbatch sets them
    environment = os.environ | job | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    assert "Everything works" in done.stdout
    assert done.stdout.count("resuming in epoch 1") == 2
    shutil.rmtree(tmp_path / "rehearsal")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(PROGRAM.parent)
    return importlib.import_module(PROGRAM.stem)


def test_a_rehearsal_needs_photographs_and_overwrites_nothing(
    program: Any, photographs: Path, tmp_path: Path, mistake: Callable[..., str]
) -> None:
    kept = tmp_path / "kept"
    kept.touch()
    assert "nowhere has no images: name a folder" in mistake([str(tmp_path / "nowhere")], program.main)
    assert f"{tmp_path} exists: remove it" in mistake([str(photographs), f"--out={tmp_path}"], program.main)
    assert kept.exists()
    with pytest.raises(program.UserError, match="expects that it holds, and this does not hold"):
        program.check(False, "it holds")
