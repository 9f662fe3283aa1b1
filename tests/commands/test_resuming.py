from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

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


def test_the_seconds_of_a_resumed_run_are_those_of_all_its_calls(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(finished_run, "runs/other/b"))
    (run / "summary.json").unlink()
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    (state,) = (state for name, state in content["callbacks"].items() if "LastCheckpoint" in name)
    state["seconds"] += 1000
    torch.save(content, run / "checkpoints" / "last.ckpt")
    options = ["--trainer.default_root_dir=runs", "--name=other", "--version=b", "--trainer.max_epochs=3"]
    main(["fit", "-c", str(run / "config.yaml"), *options])
    assert json.loads((run / "summary.json").read_text())["seconds"] > state["seconds"]


def test_a_finished_run_is_left_as_it_is(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(finished_run, "runs/other/b"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    options = ["--trainer.default_root_dir=runs", "--name=other", "--version=b", "--trainer.max_epochs=3"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", "-c", str(run / "config.yaml"), *options])
    assert ended.value.code == 0
    assert f"{run} is finished: --ckpt_path starts another run from its checkpoint" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
