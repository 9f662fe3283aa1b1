"""A callback that holds a run in the middle of an epoch, so that a test can act on it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Hold(Callback):
    """A callback that waits before a step for a signal, or for a file ``go``.

    Each rank writes a file ``held-<job>-<rank>`` when it waits.

    Args:
        step: the global step to wait before.
    """

    def __init__(self, step: int) -> None:
        self.step, self.told = step, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for signum in (signal.SIGUSR1, signal.SIGTERM):
            self._listen(signum, signal.getsignal(signum))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            Path(f"held-{os.environ['SLURM_JOB_ID']}-{trainer.global_rank}").touch()
            while not (self.told or Path("go").exists()):
                time.sleep(0.05)

    def _listen(self, signum: signal.Signals, handler: Any) -> None:
        def told(signum: int, frame: FrameType | None) -> None:
            self.told = True
            handler(signum, frame)

        signal.signal(signum, told)
