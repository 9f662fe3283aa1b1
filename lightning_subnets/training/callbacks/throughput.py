"""How fast training is, and how much of its time it waits for data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler
from torch import Tensor

_FETCH = "[_TrainingEpochLoop].train_dataloader_next"
_CHECKPOINT = "save_checkpoint"


@dataclass
class _Span:
    """A stretch of training: when it began, its images, and in seconds what was waited for and what does not count."""

    start: float
    images: int = 0
    waited: float = 0.0
    paused: float = 0.0

    def seconds(self) -> float:
        return time.perf_counter() - self.start - self.paused


class Throughput(Callback):
    """Logs images per second and the share of the time in which training waits for its next batch.

    ``train/images_per_second`` and ``train/data_wait`` by epoch, the first summed and the second averaged over the
    ranks; the same with ``_step`` for the time since they were logged last, as the first rank sees it. Validation and
    the writing of checkpoints do not count. An epoch that a run goes on with in its middle counts from there. Nothing
    here waits for a GPU.
    """

    def __init__(self) -> None:
        self._epoch, self._step = _Span(time.perf_counter()), _Span(time.perf_counter())

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # The profiler is the one that Lightning tells when it asks for a batch and when it has it.
        if stage == "fit":
            trainer.profiler = _Stopwatch(trainer.profiler, self)  # type: ignore[attr-defined]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(trainer.profiler, _Stopwatch):  # type: ignore[attr-defined]
            trainer.profiler = trainer.profiler.inner  # type: ignore[attr-defined]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # which Lightning leaves out then

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning leaves the start of an epoch out where the run goes on in its middle.
        self._epoch, self._step = _Span(time.perf_counter()), _Span(time.perf_counter())
        self._last_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch = _Span(time.perf_counter())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pause(time.perf_counter() - self._validation_start)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        images = len(batch[0])
        self._epoch.images += images
        self._step.images += images
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        stepped, self._last_step = trainer.global_step != self._last_step, trainer.global_step
        if stepped and interval and trainer.global_step % interval == 0:
            seconds = self._step.seconds()
            pl_module.log("train/images_per_second_step", self._step.images * trainer.world_size / seconds)
            pl_module.log("train/data_wait_step", self._step.waited / seconds)
            self._step = _Span(time.perf_counter())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._epoch.images:  # all of the epoch was done when the run was stopped
            return
        seconds = self._epoch.seconds()
        speed = self._epoch.images / seconds
        pl_module.log("train/images_per_second", speed, sync_dist=True, reduce_fx="sum")
        pl_module.log("train/data_wait", self._epoch.waited / seconds, sync_dist=True)

    def wait(self, seconds: float) -> None:
        self._epoch.waited += seconds
        self._step.waited += seconds

    def pause(self, seconds: float) -> None:
        self._epoch.paused += seconds
        self._step.paused += seconds


class _Stopwatch(Profiler):
    """Times what ``Throughput`` asks for and hands everything on to the profiler that was there."""

    def __init__(self, inner: Profiler, throughput: Throughput) -> None:
        super().__init__(inner.dirpath, inner.filename)
        self.inner = inner
        self._take = {_FETCH: throughput.wait, _CHECKPOINT: throughput.pause}
        self._starts: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        self._starts[action_name] = time.perf_counter()
        self.inner.start(action_name)

    def stop(self, action_name: str) -> None:
        self.inner.stop(action_name)
        if action_name in self._take:
            self._take[action_name](time.perf_counter() - self._starts[action_name])

    def summary(self) -> str:
        return self.inner.summary()

    def setup(self, *args: Any, **kwargs: Any) -> None:
        self.inner.setup(*args, **kwargs)

    def describe(self) -> None:
        self.inner.describe()

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        self.inner.teardown(*args, **kwargs)
