"""Progress of a whole run: a bar in a terminal, lines of text elsewhere."""

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
from lightning_subnets.training.schedule import current_step, steps_of_run

_INTERVAL = 60.0  # seconds between two lines without a terminal
_WIDTH_WITH_BAR = 80  # in a narrower terminal, rich would cut the counters off


class Progress(ProgressBar):
    """Shows the steps of a fit, a test or a prediction that are done, the time left, and the validation accuracy.

    Lightning's own bars start again with each epoch, so they cannot say when the run will end.
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

    def _start(self, text: str, total: float, done: int = 0) -> None:
        self._total, self._first = total, done
        self._started = self._printed = time.monotonic()
        self._shown = self._enabled and self.trainer.is_global_zero
        if self._shown and self._console.is_terminal:
            wide = self._console.width >= _WIDTH_WITH_BAR
            bar, elapsed = ([BarColumn()], [TimeElapsedColumn()]) if wide else ([], [])
            columns = (TextColumn("{task.description}"), *bar, MofNCompleteColumn(), *elapsed, TextColumn("left"))
            self._bar = Bar(*columns, TimeRemainingColumn(), console=self._console)
            self._task = self._bar.add_task(text, total=None if isinf(total) else total)
            self._bar.start()

    def _show(self, text: str, done: int, *, last: bool = False) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=text)
        elif self._shown and (last or now - self._printed > _INTERVAL):
            self._printed = now
            line = f"{text} · step {done}"
            if not isinf(self._total):
                left = (now - self._started) * (self._total - done) / max(1, done - self._first)
                line += f"/{self._total} · {timedelta(seconds=round(left))} left"
            print(line, file=sys.stderr)

    def _stop(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = trainer.log_dir  # on every rank, because the ranks exchange it
        if folder and self._enabled and trainer.is_global_zero:
            step, epoch = trainer.global_step, trainer.current_epoch + 1
            doing = f"resuming in epoch {epoch}, after step {step}" if step else "training"
            print(f"{doing}; everything goes into {printable(str(folder))}", file=sys.stderr)
        self._start("training", steps_of_run(trainer), current_step(trainer))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._show(_training(trainer, trainer.current_epoch + 1), current_step(trainer))

    on_train_epoch_end = on_train_batch_end  # type: ignore[assignment]  # after the validation

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch  # which is finished now
        self._show(_training(trainer, epoch), current_step(trainer), last=True)
        self._stop()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start("testing", sum(trainer.num_test_batches))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._show("testing", batch_idx + 1)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start("predicting", sum(trainer.num_predict_batches))

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._show("predicting", batch_idx + 1)

    on_test_end = on_predict_end = on_exception = _stop  # type: ignore[assignment]


def _training(trainer: Trainer, epoch: int) -> str:
    accuracy = trainer.callback_metrics.get("val/accuracy")
    last = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
    return f"epoch {epoch}{last}" + (f" · accuracy {float(accuracy):.2%}" if accuracy is not None else "")
