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
    state = best["callbacks"]["BestCheckpoint"]
    assert state["best_model_path"] == str((other / "checkpoints" / "best.ckpt").resolve())
    assert (best["epoch"], state["best_model_score"]) == (3, 0.0)


def test_a_run_that_resumes_from_its_best_checkpoint_alone_keeps_it(finished_run: Path, tmp_path: Path) -> None:
    state = torch.load(finished_run / "checkpoints" / "best.ckpt", weights_only=True)["callbacks"]["BestCheckpoint"]
    for of_run, expected in ((tmp_path, str(tmp_path / "best.ckpt")), (tmp_path / "another", "")):
        callback = BestCheckpoint(tmp_path)
        callback.load_state_dict(state | {"dirpath": str(of_run)})
        assert callback.best_model_path == expected


def test_a_run_keeps_its_best_checkpoints_beside_the_best_one(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter((0.2, 0.5, 0.3))
    monkeypatch.setattr(SubnetModule, "on_validation_epoch_end", lambda self: self.log("val/accuracy", next(found)))
    keep = [f"--trainer.callbacks{o}" for o in ("+=ModelCheckpoint", ".monitor=val/accuracy", ".mode=max")]
    limits = ["--trainer.limit_train_batches=1", "--trainer.num_sanity_val_steps=0", "--trainer.max_epochs=3"]
    config = ["fit", "-c", str(finished_run / "config.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    main([*config, *keep, "--trainer.callbacks.save_top_k=2", *limits])
    checkpoints = tmp_path / "quickstart" / "version_0" / "checkpoints"
    kept = {path.name for path in checkpoints.glob("*.ckpt")}
    assert kept == {"last.ckpt", "best.ckpt", "epoch=1-step=2.ckpt", "epoch=2-step=3.ckpt"}
    assert torch.load(checkpoints / "best.ckpt", weights_only=True)["epoch"] == 1
