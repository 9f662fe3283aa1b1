"""Every command of docs/own_data.md, in an empty directory with photographs and a network of one's own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from repository import ROOT
from sklearn.datasets import load_sample_images

PAGE = (ROOT / "docs" / "own_data.md").read_text()
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def photograph(folder: Path) -> None:
    """Cut photographs of two classes out of scikit-learn's two, 20 each to train on, 8 to test and 3 without labels."""
    rng = np.random.default_rng(0)
    for name, picture in zip(("china", "flower"), load_sample_images().images, strict=True):
        for part, count in ((f"train/{name}", 20), (f"test/{name}", 8), ("new", 3)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                top, left = rng.integers(0, 300), rng.integers(0, 500)
                crop = Image.fromarray(picture[top : top + 96, left : left + 128])
                crop.save(folder / part / f"{name}{index}.jpg")


@pytest.mark.thorough
def test_every_command_of_the_guide_does_what_it_says(tmp_path: Path) -> None:
    photograph(tmp_path / "photos")
    (tmp_path / "mynet.py").write_text(blocks("python")[0])
    (tmp_path / "mine.yaml").write_text(blocks("yaml")[0])
    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    fit = commands[0]

    stopped = subprocess.Popen(fit, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (tmp_path / "runs/mine/first/checkpoints/last.ckpt").exists():
        assert stopped.poll() is None, stopped.communicate()[0].decode()
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    said_when_stopped = stopped.communicate(timeout=120)[0].decode()
    assert stopped.returncode != 0, said_when_stopped

    said = {}
    for command in commands:
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
        said[shlex.join(command)] = done.stdout + done.stderr

    assert "resuming in epoch" in said[shlex.join(fit)]
    summary = json.loads((tmp_path / "runs/mine/first/summary.json").read_text())
    assert summary["test_accuracy"] > 0.8
    tested = [text for command, text in said.items() if command.startswith("lightning test")]
    assert len(tested) == 2
    for text in tested:
        (accuracy,) = re.findall(r"test/accuracy\s*│\s*([0-9.]+)", text)
        assert float(accuracy) == pytest.approx(summary["test_accuracy"], abs=1e-6)
    assert (tmp_path / "mine.subnet").stat().st_size < 10_000
    assert onnxruntime.InferenceSession(tmp_path / "mine.onnx").get_inputs()[0].shape[1:] == [3, 64, 64]
    page = (tmp_path / "runs/report/index.html").read_text()
    assert all(name in page for name in ("mine", "dense"))
    rows = [path.read_text() for path in (tmp_path / "runs").rglob("predictions*.csv")]
    assert len(rows) == 1
    assert all(f"{name}{index}.jpg" in rows[0] for name in ("china", "flower") for index in range(3))
