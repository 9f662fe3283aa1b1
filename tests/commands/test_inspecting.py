"""``subnets inspect`` of masks that flip and multiply weights, and of edges that are not searched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main


def test_inspect_says_what_a_run_and_its_file_have_beside_the_mask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    options = ["signed=true", "inner=[0.4, 0.2]", "frozen=0.5"]
    method = ["--model.method=Multicoated", *(f"--model.method.{each}" for each in options)]
    lightning(["fit", "-c", "quickstart", "--trainer.max_steps=1", f"--trainer.default_root_dir={tmp_path}", *method])
    for ending in ("ckpt", "subnet"):
        (path,) = tmp_path.rglob(f"last.{ending}")
        capsys.readouterr()
        main(["inspect", str(path)])
        (row,) = [line for line in capsys.readouterr().out.splitlines() if "features.3" in line]
        assert re.search(r"x2: 10%, x3: 10%, flipped: 2[3-7]%, frozen: 50%", row), row
