"""The best checkpoint of a run stays the best one, wherever the run is resumed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lightning_subnets.commands.cli import main
from lightning_subnets.training.callbacks import BestCheckpoint
from lightning_subnets.training.module import SubnetModule


def test_a_moved_run_keeps_its_best_checkpoint_and_another_run_has_its_own(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    moved, other = Path("runs/quickstart/moved"), Path("runs/quickstart/other")
    shutil.copytree(finished_run, moved)
    (moved / "summary.json").unlink()
    before = (moved / "checkpoints" / "best.ckpt").read_bytes()
    monkeypatch.setattr(SubnetModule, "on_validation_epoch_end", lambda self: self.log("val/accuracy", 0.0))
    options = ["--trainer.max_epochs=3", "--trainer.default_root_dir=runs", "--name=quickstart"]
    config = ["fit", "-c", str(moved / "config.yaml"), *options]
    main([*config, "--version=moved"])
    assert (moved / "checkpoints" / "best.ckpt").read_bytes() == before

    main([*config, "--version=other", "--trainer.max_epochs=4", f"--ckpt_path={moved}/checkpoints/last.ckpt"])
    best = torch.load(other / "checkpoints" / "best.ckpt", weights_only=True)
    (state,) = (state for key, state in best["callbacks"].items() if key.startswith("ModelCheckpoint{"))
    assert state["best_model_path"] == str((other / "checkpoints" / "best.ckpt").resolve())
    assert (best["epoch"], state["best_model_score"]) == (3, 0.0)


def test_a_run_that_resumes_from_its_best_checkpoint_alone_keeps_it(finished_run: Path, tmp_path: Path) -> None:
    saved = torch.load(finished_run / "checkpoints" / "best.ckpt", weights_only=True)["callbacks"]
    (state,) = (state for key, state in saved.items() if key.startswith("ModelCheckpoint{"))
    for of_run, expected in ((tmp_path, str(tmp_path / "best.ckpt")), (tmp_path / "another", "")):
        callback = BestCheckpoint(tmp_path)
        callback.load_state_dict(state | {"dirpath": str(of_run)})
        assert callback.best_model_path == expected
