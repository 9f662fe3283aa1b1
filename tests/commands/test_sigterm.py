"""SIGTERM ends a command that has no checkpoint to write at once, and not as if it were done."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from repository import ROOT

from lightning_subnets.commands.cli import main
from lightning_subnets.training.module import SubnetModule

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")


@pytest.mark.parametrize(
    "command",
    [
        ["test", "--data.batch_size=99"],
        ["predict", "--data.batch_size=99", "--predictions.path=found.csv"],
        ["fit", "-c", QUICKSTART, "--trainer.enable_checkpointing=false", "--trainer.max_epochs=1"],
    ],
    ids=lambda command: command[0],
)
def test_sigterm_ends_a_command_that_has_no_checkpoint_to_write(
    command: list[str], finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, before, forward = [0], signal.getsignal(signal.SIGTERM), SubnetModule.forward

    def signalling(self: SubnetModule, images: torch.Tensor) -> torch.Tensor:
        passes[0] += 1
        if passes[0] == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, images)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SubnetModule, "forward", signalling)
    with pytest.raises(SystemExit) as ended:
        main([*command, *([] if command[0] == "fit" else [f"--ckpt_path={finished_run}/checkpoints/last.ckpt"])])
    assert ended.value.code == 128 + signal.SIGTERM
    assert passes == [3]
    assert signal.getsignal(signal.SIGTERM) is before
