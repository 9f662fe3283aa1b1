from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lightning_subnets.commands.cli import main


@pytest.mark.parametrize("given", ["", "checkpoints/last.ckpt"], ids=["directory", "file"])
def test_a_run_is_resumed_without_the_run_from_which_it_began(
    given: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("runs/other/b")
    shutil.copytree(finished_run, run)
    (run / "summary.json").unlink()
    options = ["--trainer.default_root_dir=runs", "--name=other", "--version=b"]
    main(["fit", "-c", str(run / "config.yaml"), *options, f"--ckpt_path=runs/gone/{given}"])
    assert json.loads((run / "summary.json").read_text())["epochs"] == 2
    assert f"resuming from {run}/checkpoints/last.ckpt, not from runs/gone" in capsys.readouterr().err
