"""Resume from a checkpoint to the bit, or, with other ranks or batch sizes, as nearly as possible."""

from __future__ import annotations

import math
import sys
from math import isfinite
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed
from torchmetrics import MeanMetric

from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import EpochLoader
from lightning_subnets.errors import UserError
from lightning_subnets.training import lightning_internals as internals
from lightning_subnets.training.callbacks.last_checkpoint import LastCheckpoint
from lightning_subnets.training.checkpoint import whole_epochs
from lightning_subnets.training.masked_module import callbacks_of


def state(trainer: Trainer, metrics: list[MeanMetric]) -> dict[str, Any]:
    """Return what a checkpoint needs beyond Lightning's own state.

    These are the ranks, batch size and accumulation of a step, the batches of an epoch, the epoch's metrics so far
    (ranks, 2 x metrics), whether a callback has ended the run, and the identity of an ``ImageDataModule``.
    """
    sums = torch.stack([value for metric in metrics for value in (metric.mean_value, metric.weight)])
    of_ranks = [sums]
    if trainer.world_size > 1:
        sums = sums.to(trainer.strategy.root_device)  # after a run they are on the CPU, see ``check_agreement``
        of_ranks = [torch.empty_like(sums) for _ in range(trainer.world_size)]
        distributed.all_gather(of_ranks, sums)
    data = trainer.datamodule  # type: ignore[attr-defined]
    identity = {"data": data.identity} if isinstance(data, ImageDataModule) else {}
    return {**_layout(trainer), "metrics": torch.stack(of_ranks).cpu(), "should_stop": trainer.should_stop, **identity}


def check_data(trainer: Trainer | None, saved: dict[str, Any]) -> None:
    """Check that a trainer, if there is one, has the data whose identity ``state`` saved.

    Raises:
        ValueError: see ``ImageDataModule.check_identity``.
    """
    data = getattr(trainer, "datamodule", None)
    if trainer is not None and isinstance(data, ImageDataModule) and "data" in saved:
        data.check_identity(saved["data"], validates=trainer.state.fn in (TrainerFn.FITTING, TrainerFn.VALIDATING))


def correct_progress_(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Correct the progress counters of a checkpoint before Lightning loads them.

    Lightning counts an epoch that ``max_steps`` or a callback cut short as complete. Here such an epoch is resumed if
    the run has steps left now. If a callback ended the run, early stopping for instance, the run stays ended in its own
    directory, and another run can begin from its checkpoint.
    """
    internals.resume_within_epochs_only(trainer)
    own = any(each.best_model_path == str(trainer.ckpt_path) for each in callbacks_of(trainer, LastCheckpoint))
    trainer.should_stop = own and checkpoint["run"]["should_stop"]
    ended = trainer.should_stop or 0 <= trainer.max_steps <= checkpoint["global_step"]
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    if progress["current"]["processed"] == progress["current"]["ready"]:
        cut_short = 0 if ended else progress["current"]["processed"] - whole_epochs(checkpoint)
        for epochs in progress.values():
            epochs["processed"] = epochs["completed"] = epochs["processed"] - cut_short


def restore_(trainer: Trainer, saved: dict[str, Any], metrics: list[MeanMetric]) -> None:
    """Restore what ``state`` saved, when training starts.

    With the same number of ranks and images per rank, the run continues to the bit. Otherwise an ``EpochLoader`` gives
    the rest of the epoch the samples that no rank has seen, the learning rate continues at the same share of the run,
    and a line says so.

    Raises:
        ValueError: if the saved metrics do not have the shape of this run's.
    """
    sums = saved["metrics"]
    if sums.shape != (saved["ranks"], 2 * len(metrics)) or not sums.is_floating_point():
        raise UserError(f"the checkpoint is damaged: its metrics have the shape {tuple(sums.shape)}")
    if trainer.fit_loop.restarted_mid_epoch:
        same_ranks = len(sums) == trainer.world_size
        if not internals.is_at_end_of_epoch(trainer) and (same_ranks or trainer.is_global_zero):
            _set_sums_(metrics, sums[trainer.global_rank] if same_ranks else sums.sum(dim=0))
        internals.count_last_step_once(trainer)
    before, now = {key: saved[key] for key in _layout(trainer)}, _layout(trainer)
    if before != now:
        _convert_(trainer, before["batches"])
        if trainer.is_global_zero:
            (loader,) = internals.train_loaders(trainer)
            rest = "the rest of the epoch trains on the samples that no process has seen, "
            print(
                f"resuming at step {trainer.global_step} with {_in_words(now)}, instead of {_in_words(before)}; "
                f"{rest if isinstance(loader, EpochLoader) else ''}the learning rate continues at "
                "the same share of the run, and the scores will differ from those of an uninterrupted run",
                file=sys.stderr,
            )


def _layout(trainer: Trainer) -> dict[str, int | None]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return {
        "ranks": trainer.world_size,
        "batch_size": getattr(data, "batch_size", None),
        "accumulate": trainer.accumulate_grad_batches,
        "batches": int(batches) if isfinite(batches := trainer.num_training_batches) else None,
    }


def _in_words(layout: dict[str, int | None]) -> str:
    ranks, batch_size, accumulate = layout["ranks"], layout["batch_size"], layout["accumulate"]
    times = f" x {accumulate} batches" if accumulate != 1 else ""
    batches = layout["batches"] or "any number of"
    return f"{ranks} x {batch_size or 'any number of'} images{times} a step, {batches} batches an epoch"


def _convert_(trainer: Trainer, batches_before: int | None) -> None:
    """Convert the position in the run to the steps that an epoch has now; an epoch of a stream has no number."""
    loop: Any = trainer.fit_loop
    batches, done = trainer.num_training_batches, 0
    if not isfinite(batches):
        return
    if loop.restarted_mid_epoch:
        (loader,) = internals.train_loaders(trainer)
        current, whole = loop.epoch_loop.batch_progress.current, int(batches)
        if isinstance(loader, EpochLoader):
            left = loader.remaining(whole)
        else:
            left = whole - current.ready * whole // (batches_before or whole)
        ended = internals.is_at_end_of_epoch(trainer)  # and Lightning has counted the epoch
        # Otherwise at least one batch has to be left, or Lightning would begin the epoch again.
        done = 0 if ended else whole - max(1, left)
        shift = (whole if ended else done) - current.ready
        for key in ("ready", "started", "processed", "completed"):
            setattr(current, key, getattr(current, key) + shift)
    accumulate, epochs = trainer.accumulate_grad_batches, trainer.max_epochs or -1
    steps = math.ceil(batches / accumulate)
    ends_by_steps = 0 <= trainer.max_steps < epochs * steps  # then the schedule counts steps, as before
    if epochs > 0 and not ends_by_steps:
        position = loop.epoch_progress.current.processed * steps + done // accumulate
        for config in trainer.lr_scheduler_configs:
            config.scheduler.last_epoch = position


def _set_sums_(metrics: list[MeanMetric], sums: Tensor) -> None:
    for metric, (mean_value, weight) in zip(metrics, sums.view(-1, 2), strict=True):
        metric.mean_value.copy_(mean_value)
        metric.weight.copy_(weight)
        metric._update_count = 1  # otherwise torchmetrics warns that the metric is empty
