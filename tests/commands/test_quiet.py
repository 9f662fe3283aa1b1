"""Lightning prints what a user has asked for, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from repository import ROOT

from lightning_subnets.commands.cli import main

EARLY_STOPPING = [
    f"--trainer.callbacks{option}"
    for option in ("+=EarlyStopping", ".monitor=val/loss", ".min_delta=99", ".patience=1", ".verbose=true")
]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], None),
        (["--trainer.profiler=simple"], "FIT Profiler Report"),
        (["--trainer.callbacks+=ModelSummary"], "Total params"),
        (EARLY_STOPPING, "Signaling Trainer to stop"),
    ],
    ids=["plain", "profiler", "summary", "early stopping"],
)
def test_lightning_says_what_was_asked_for_and_nothing_else(
    options: list[str], part: str | None, tmp_path: Path
) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("lightning.pytorch").addHandler(handler)
    short = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=1", f"--trainer.default_root_dir={tmp_path}"]
    try:
        main(["fit", "-c", str(ROOT / "configs" / "quickstart.yaml"), "--trainer.accelerator=cpu", *short, *options])
    finally:
        logging.getLogger("lightning.pytorch").removeHandler(handler)
    assert part in "\n".join(said) if part else said == []
