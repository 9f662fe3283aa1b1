"""One line of progress for the whole run: what is done, what is left, how good it is."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

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

    def _start(self, verb: str, total: int) -> None:
        self._started = self._printed = time.monotonic()
        if self._enabled and self.trainer.is_global_zero and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, TextColumn("left"), TimeRemainingColumn(), console=self._console)
            self._task = self._bar.add_task(verb, total=total)
            self._bar.start()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._total = int(trainer.estimated_stepping_batches)
        self._first = trainer.global_step
        folder = trainer.log_dir  # on every rank, for the ranks agree on it
        if folder and self._enabled and trainer.is_global_zero:
            print(f"training; everything goes into {folder}", file=sys.stderr)
        self._start("training", self._total)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, description=self._describe(trainer))
        elif time.monotonic() - self._printed > _INTERVAL:
            self._print(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=self._describe(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is None:
            self._print(trainer)
        self._stop()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start("testing", int(sum(trainer.num_test_batches)))

    def on_test_batch_end(self, *args: Any) -> None:
        self._advance()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start("predicting", int(sum(trainer.num_predict_batches)))

    def on_predict_batch_end(self, *args: Any) -> None:
        self._advance()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()
        saved = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if isinstance(exception, KeyboardInterrupt) and saved and trainer.is_global_zero:
            print(f"interrupted; to go on: lightning fit --ckpt_path {saved}", file=sys.stderr)

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def _describe(self, trainer: Trainer) -> str:
        metrics = trainer.callback_metrics
        accuracy = f" · accuracy {float(metrics['val/accuracy']):.2%}" if "val/accuracy" in metrics else ""
        epochs = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        return f"epoch {min(trainer.current_epoch + 1, trainer.max_epochs or sys.maxsize)}{epochs}{accuracy}"

    def _print(self, trainer: Trainer) -> None:
        if not (self._enabled and trainer.is_global_zero):
            return
        self._printed = time.monotonic()
        done, elapsed = trainer.global_step - self._first, self._printed - self._started
        left = timedelta(seconds=round(elapsed * (self._total - trainer.global_step) / max(1, done)))
        print(f"{self._describe(trainer)} · step {trainer.global_step}/{self._total} · {left} left", file=sys.stderr)
