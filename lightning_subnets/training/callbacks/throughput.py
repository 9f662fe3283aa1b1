"""Images per second, and the share of the time in which training waits for data."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_subnets.training.lightning_internals import PROFILED_CHECKPOINT, PROFILED_FETCH


@dataclass
class _Span:
    """The images of a stretch of training, and in seconds its start, its waits for data and its pauses."""

    start: float = field(default_factory=lambda: time.perf_counter())
    images: int = 0
    waited: float = 0.0
    paused: float = 0.0

    def seconds(self) -> float:
        return time.perf_counter() - self.start - self.paused


class Throughput(Callback):
    """Logs images per second and the share of the time in which training waits for its next batch.

    ``train/images_per_second`` is summed and ``train/data_wait`` averaged over the ranks, by epoch. The same names with
    ``_step`` are measured on rank 0 since they were last logged. Validation and the writing of checkpoints do not
    count. A resumed epoch counts from where it resumes. The callback never waits for a GPU.
    """

    def __init__(self) -> None:
        self._epoch, self._step = _Span(), _Span()  # a Trainer may validate without a fit before

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        # Only the profiler is told when Lightning asks for a batch and when it has the batch.
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        start, stop, started = profiler.start, profiler.stop, dict[str, float]()

        def timed_start(action: str) -> None:
            started[action] = time.perf_counter()
            start(action)

        def timed_stop(action: str) -> None:
            stop(action)
            if action not in (PROFILED_FETCH, PROFILED_CHECKPOINT):
                return
            seconds = time.perf_counter() - started[action]
            for span in (self._epoch, self._step):
                span.waited += seconds if action == PROFILED_FETCH else 0.0
                span.paused += seconds if action == PROFILED_CHECKPOINT else 0.0

        profiler.start, profiler.stop = timed_start, timed_stop

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for name in ("start", "stop"):
            vars(trainer.profiler).pop(name, None)  # type: ignore[attr-defined]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # Lightning does not call it after an exception

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch, self._step = _Span(), _Span()  # Lightning does not call on_train_epoch_start for a resumed epoch
        self._last_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch = _Span()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for span in (self._epoch, self._step):
            span.paused += time.perf_counter() - self._validation_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        self._epoch.images += len(batch[0])
        self._step.images += len(batch[0])
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        stepped, self._last_step = trainer.global_step != self._last_step, trainer.global_step
        if stepped and interval and trainer.global_step % interval == 0:
            seconds = self._step.seconds()
            pl_module.log("train/images_per_second_step", self._step.images * trainer.world_size / seconds)
            pl_module.log("train/data_wait_step", self._step.waited / seconds)
            self._step = _Span()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._epoch.images:  # none if the run was stopped after the last batch of the epoch
            seconds = self._epoch.seconds()
            speed = self._epoch.images / seconds
            pl_module.log("train/images_per_second", speed, sync_dist=True, reduce_fx="sum")
            pl_module.log("train/data_wait", self._epoch.waited / seconds, sync_dist=True)
