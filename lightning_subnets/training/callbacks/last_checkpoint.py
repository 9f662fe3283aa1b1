"""The checkpoint from which a run resumes, and the signals that make a run write it and end."""

from __future__ import annotations

import math
import os
import shlex
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
from lightning_subnets.training import lightning_internals as internals
from lightning_subnets.training.delayed_all_reduce import DelayedAllReduceMax
from lightning_subnets.training.loggers.metrics_file import MetricsFile
from lightning_subnets.training.masked_module import callbacks_of

# SLURM sends SIGUSR1 before a time limit, if asked to, and SIGTERM when a job is cancelled or preempted. SIGINT is
# Ctrl-C.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
REQUEUE = os.EX_TEMPFAIL  # sysexits.h: "temporary failure; the user is invited to retry"

# Asks for a checkpoint without a stop. The number of every signal is larger, so a signal on any rank is the maximum.
_DUE = 1
_TIME_LIMIT = int(signal.SIGALRM)  # stands for max_time among the signals; nobody sends this signal


class Stopped(SystemExit):
    """The end of a run that a signal or ``max_time`` has stopped, after its checkpoint is written.

    The exit code of rank 0 is 75 for SIGUSR1 and ``max_time``, and 128 + the signal's number for the others, as in a
    shell. The exit code of every other rank is 0, because the launcher may kill rank 0 when another rank fails.
    """

    def __init__(self, number: int, rank: int) -> None:
        self.by = "trainer.max_time" if number == _TIME_LIMIT else signal.Signals(number).name
        self.exit_code = REQUEUE if number in (signal.SIGUSR1, _TIME_LIMIT) else 128 + number
        super().__init__(0 if rank else self.exit_code)


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` at the end of each epoch, every few minutes in between, and when a signal stops the run.

    If any rank receives a signal, all ranks stop after the same optimizer step, or after the validation that is under
    way. A second signal of the same kind ends the process at once. Lightning's own handlers are disabled, because they
    save wherever each rank happens to be and exchange tensors inside the handler.

    ``trainer.max_time`` stops a run as a signal does. It limits each call, counted from the first step of the call;
    the same command resumes the run, again with the whole time. A run is finished only when its epochs or steps
    are done, or when a callback ends it. This class replaces Lightning's ``Timer``, also one that a user adds.

    The metrics of a step are in ``metrics.csv`` on the disk before the checkpoint of the step, so a resumed run has
    lost none.

    Args:
        folder: of the checkpoint.
        minutes: between two checkpoints within an epoch.
    """

    def __init__(self, folder: Path, minutes: float = 10.0) -> None:
        self.path, self.minutes = folder / "last.ckpt", minutes
        self.seconds = 0.0  # of training, over all processes of the run
        self._signal = self._to_do = 0
        self._limit = math.inf  # in seconds, of this process
        self._previous: dict[int, Any] = {}

    @property
    def best_model_path(self) -> str:
        return str(self.path) if self.path.exists() else ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._signal = self._to_do = 0
        if not trainer.global_step:  # a new run, or one whose checkpoint is loaded later
            self.seconds, self._limit = 0.0, math.inf
        for timer in callbacks_of(trainer, Timer):
            if (seconds := timer.time_remaining()) is not None:
                self._limit = min(self._limit, seconds)
                # a new list, because Lightning is iterating over this one
                trainer.callbacks = [c for c in trainer.callbacks if c is not timer]  # type: ignore[attr-defined]
        internals.disable_signal_handlers(trainer)
        for signum in SIGNALS:
            # A shell makes a script's background processes ignore Ctrl-C.
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
            command = shlex.join(["lightning", "fit", "-c", str(run / "config.yaml"), "--version", run.name])
            print(f"{by} at step {trainer.global_step}; to resume: {command}", file=sys.stderr)

    def check_room(self, module: LightningModule) -> None:
        """Create the folder, and check that its disk has room for the checkpoints of a run.

        Raises:
            ValueError: if the folder cannot be created, or the disk has too little room.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"no checkpoint can be kept in {self.path.parent} ({error.strerror}): name another "
                "--trainer.default_root_dir"
            ) from error
        trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
        # The last, the best, and one that is being written; each with a value and a momentum per trained parameter.
        needed, free = 3 * 2 * trained, shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise UserError(
                f"{self.path.parent} has {free / 1e9:.2g} GB left, and the checkpoints of this run take "
                f"{needed / 1e9:.2g} GB: make room, or name another disk with --trainer.default_root_dir"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._requests = DelayedAllReduceMax(pl_module.device, trainer.world_size)
        internals.disable_sigterm_broadcast(trainer)
        self._began = self._written = self._counted = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = _DUE if time.monotonic() - self._written > 60 * self.minutes and trainer.is_global_zero else 0
        self._to_do = max(self._requests.exchange(self._requested() or due), self._to_do)
        if self._to_do and internals.nothing_follows_this_batch(trainer):
            if internals.logs_at_this_step(trainer):
                internals.log_now(trainer)
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._to_do = max(self._requests.now(self._requested()), self._to_do)
        internals.log_now(trainer, step_before=True)
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
