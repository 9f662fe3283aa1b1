"""One line of progress for the whole run: what is done, what is left, how good it is."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from math import isinf
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lightning_subnets.errors import printable

# Seconds between lines where there is no terminal, in the log of a batch job for instance.
_INTERVAL = 60.0


class Progress(ProgressBar):
    """A bar over all optimizer steps of a fit, with the time left; lines of text where there is no terminal.

    Lightning's own bars start again with each epoch and so cannot say when the run will end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._console = Console(file=sys.stderr)
        self._bar: Bar | None = None

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def _start(self, verb: str, total: float) -> None:
        self._started = self._printed = time.monotonic()
        if self._enabled and self.trainer.is_global_zero and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, TextColumn("left"), TimeRemainingColumn(), console=self._console)
            self._task = self._bar.add_task(verb, total=None if isinf(total) else total)
            self._bar.start()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._total, self._first = trainer.estimated_stepping_batches, -1
        folder = trainer.log_dir  # on every rank, for the ranks agree on it
        if folder and self._enabled and trainer.is_global_zero:
            print(f"training; everything goes into {printable(str(folder))}", file=sys.stderr)
        self._start("training", self._total)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._first < 0:
            self._first = _step(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=_step(trainer),
                description=self._describe(trainer, trainer.current_epoch + 1),
            )
        elif time.monotonic() - self._printed > _INTERVAL:
            self._print(trainer, trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=self._describe(trainer, trainer.current_epoch + 1))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is None:
            self._print(trainer, trainer.current_epoch)  # which counts the finished ones now
        self._stop()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start("testing", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *args: Any) -> None:
        self._advance()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start("predicting", sum(trainer.num_predict_batches))

    def on_predict_batch_end(self, *args: Any) -> None:
        self._advance()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def _describe(self, trainer: Trainer, epoch: int) -> str:
        metrics = trainer.callback_metrics
        accuracy = f" · accuracy {float(metrics['val/accuracy']):.2%}" if "val/accuracy" in metrics else ""
        last = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        return f"epoch {epoch}{last}{accuracy}"

    def _print(self, trainer: Trainer, epoch: int) -> None:
        if not (self._enabled and trainer.is_global_zero):
            return
        self._printed = time.monotonic()
        step, elapsed = _step(trainer), self._printed - self._started
        line = f"{self._describe(trainer, epoch)} · step {step}"
        if not isinf(self._total):
            left = timedelta(seconds=round(elapsed * (self._total - step) / max(1, step - self._first)))
            line += f"/{self._total} · {left} left"
        print(line, file=sys.stderr)


def _step(trainer: Trainer) -> int:
    """The optimizer step, in the steps that there are now, of which there were others with another number of ranks."""
    configs = trainer.lr_scheduler_configs
    return configs[0].scheduler.last_epoch if configs else trainer.global_step
