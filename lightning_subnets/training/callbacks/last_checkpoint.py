"""The checkpoint to go on from, and the signals that tell a run to write it and end."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, Timer

from lightning_subnets.errors import UserError
from lightning_subnets.training.delayed_all_reduce import DelayedAllReduceMax
from lightning_subnets.training.loggers.metrics_file import MetricsFile

# SLURM sends the first before a time limit, if asked to; the second when a job is cancelled or preempted; the third is
# Ctrl-C.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
# "Temporary failure; the user is invited to retry", sysexits.h: who sent SIGUSR1 is to start the run again.
REQUEUE = os.EX_TEMPFAIL

_DUE = 1  # below every signal's number, so that the larger of the two is what has to be done
_TIME_LIMIT = int(signal.SIGALRM)  # stands for max_time among the signals; no such signal is sent


class Stopped(SystemExit):
    """Ends a run that a signal or ``max_time`` has stopped, after its checkpoint is written.

    The exit code of rank 0 is 75 for SIGUSR1 and ``max_time``, and 128 + the signal's number for the others, as in a
    shell. The exit code of every other rank is 0, because the launcher may kill rank 0 when another rank fails.
    """

    def __init__(self, number: int, rank: int) -> None:
        self.by = "trainer.max_time" if number == _TIME_LIMIT else signal.Signals(number).name
        self.exit_code = REQUEUE if number in (signal.SIGUSR1, _TIME_LIMIT) else 128 + number
        super().__init__(0 if rank else self.exit_code)


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` at the end of each epoch, every few minutes between, and when a signal stops the run.

    A signal to any rank is noted, and acted upon by all ranks after the same optimizer step; one during validation,
    after it. Lightning's own handlers are not used: they save in the middle of whatever the process is doing, each rank
    where it happens to be, and exchange tensors inside the handler. A second signal of a kind ends the process at once.

    ``trainer.max_time`` stops a run as a signal does. It limits each call, counted from the first step of the call;
    the same command resumes the run, again with the whole time. A run is finished only when its epochs or steps
    are done, or when a callback ends it. This class replaces Lightning's ``Timer``, also one that a user adds.

    Metrics reach the loggers, and ``metrics.csv`` on the disk, before the checkpoint that covers them, so a resumed run
    has lost none.

    Args:
        folder: of the checkpoint.
        minutes: between two checkpoints in the middle of an epoch.
    """

    def __init__(self, folder: Path, minutes: float = 10.0) -> None:
        self.path, self.minutes = folder / "last.ckpt", minutes
        self.seconds = 0.0  # of training, over all processes that the run has had
        self._signal = self._to_do = 0
        self._limit = math.inf  # in seconds, of this process
        self._previous: dict[int, Any] = {}

    @property
    def best_model_path(self) -> str:
        return str(self.path) if self.path.exists() else ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
        for timer in timers:
            if (seconds := timer.time_remaining()) is not None:
                self._limit = min(self._limit, seconds)
                trainer.callbacks = [c for c in trainer.callbacks if c is not timer]  # type: ignore[attr-defined]
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        for signum in SIGNALS:
            # What is started in the background of a script is told to leave the Ctrl-C for others alone.
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._signal = max(self._signal, signum)
        signal.signal(signum, self._previous[signum])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")
        if isinstance(exception, Stopped | KeyboardInterrupt) and self.path.exists() and trainer.is_global_zero:
            by = f"stopped by {exception.by}" if isinstance(exception, Stopped) else "interrupted"
            run = self.path.parent.parent
            print(
                f"{by} at step {trainer.global_step}; to resume: "
                f"lightning fit -c {run / 'config.yaml'} --version {run.name}",
                file=sys.stderr,
            )

    def check_room(self, module: LightningModule) -> None:
        """Make the folder, and look for room on its disk for the checkpoints of a run.

        Raises:
            ValueError: if it cannot be made, or they will not go in.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"no checkpoint can be kept in {self.path.parent}: {error.strerror}") from error
        trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
        # The last and the best, and a third while it is written; of each parameter its value and a momentum.
        needed, free = 3 * 2 * trained, shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise UserError(
                f"{self.path.parent} has {free / 1e9:.2g} GB left, and the checkpoints of this run take "
                f"{needed / 1e9:.2g} GB: make room, or name another disk with --trainer.default_root_dir"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agreement = DelayedAllReduceMax(pl_module.device, trainer.world_size)
        # Lightning 2.6 broadcasts at every step whether it has seen a signal, and makes the host wait for the answer.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        self._began = self._written = self._counted = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = _DUE if time.monotonic() - self._written > 60 * self.minutes and trainer.is_global_zero else 0
        agreed = self._agreement.exchange(self._requested() or due)
        self._to_do = max(agreed, self._to_do)
        if self._to_do and _between_steps(trainer):
            if trainer._logger_connector.should_update_logs:
                _log(trainer)
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._to_do = max(self._agreement.now(self._requested()), self._to_do)
        # Lightning logs an epoch by the step before, once its own counter has gone on, which the checkpoint holds.
        trainer.fit_loop.epoch_loop._batches_that_stepped -= 1
        _log(trainer)
        trainer.fit_loop.epoch_loop._batches_that_stepped += 1
        self._write(trainer)

    def _requested(self) -> int:
        """Return the signal that asks this rank to stop, ``_TIME_LIMIT`` if the time is over, or 0."""
        return max(self._signal, _TIME_LIMIT if time.monotonic() - self._began >= self._limit else 0)

    def _write(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.sync()
        trainer.save_checkpoint(self.path)
        to_do, self._to_do = self._to_do, 0
        self._written = time.monotonic()
        if to_do > _DUE:
            raise Stopped(to_do, trainer.global_rank)

    def state_dict(self) -> dict[str, Any]:
        now = time.monotonic()
        self.seconds, self._counted = self.seconds + now - self._counted, now
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]


def _log(trainer: Trainer) -> None:
    connector = trainer._logger_connector
    connector.log_metrics(connector.metrics["log"])


def _between_steps(trainer: Trainer) -> bool:
    """Whether nothing is lost by stopping after this batch.

    A resumed run skips what Lightning does after the batch. So if the batch ends an epoch or training, or a validation
    follows, that has to be done first. Accumulated gradients are not in a checkpoint.
    """
    loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    assert loop._data_fetcher is not None
    ends = epoch_loop._is_training_done or (trainer.should_stop and loop._can_stop_early)
    return not (ends or epoch_loop._should_check_val_fx(loop._data_fetcher) or epoch_loop._should_accumulate())
