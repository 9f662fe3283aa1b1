"""Going on from a checkpoint as if the run had not stopped; with other ranks or batches, as nearly as can be."""

from __future__ import annotations

import math
import sys
from math import isfinite
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, distributed
from torchmetrics import MeanMetric

from lightning_subnets.datamodules.loader import EpochLoader
from lightning_subnets.errors import UserError
from lightning_subnets.training.callbacks.last_checkpoint import LastCheckpoint
from lightning_subnets.training.checkpoint import whole_epochs


def state(trainer: Trainer, metrics: list[MeanMetric]) -> dict[str, Any]:
    """Return what a checkpoint holds beside Lightning's own state.

    These are the batch size, ranks and accumulation of a step, the epoch's metrics so far, and whether a callback has
    ended the run.
    """
    sums = _of_all_ranks(_sums(metrics), trainer.world_size)
    return {**_make_up(trainer), "metrics": sums, "should_stop": trainer.should_stop}


def correct_progress_(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Correct the progress counters of a checkpoint before Lightning loads them.

    Lightning 2.6 resumes every run that has a ``max_steps`` as if its checkpoint were within an epoch, and it counts an
    epoch that ``max_steps`` or a callback cut short as complete. Here such an epoch is resumed if the run has steps
    left now. If a callback ended the run, early stopping for instance, the run stays ended in its own directory, and
    another run can begin from its checkpoint.
    """
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    own = any(isinstance(c, LastCheckpoint) and c.best_model_path == str(trainer.ckpt_path) for c in callbacks)
    trainer.should_stop = own and checkpoint["run"]["should_stop"]
    ended = trainer.should_stop or 0 <= trainer.max_steps <= checkpoint["global_step"]
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    if progress["current"]["processed"] == progress["current"]["ready"]:
        cut_short = 0 if ended else progress["current"]["processed"] - whole_epochs(checkpoint)
        for epochs in progress.values():
            epochs["processed"] = epochs["completed"] = epochs["processed"] - cut_short


def restore_(trainer: Trainer, saved: dict[str, Any], metrics: list[MeanMetric]) -> None:
    """Take up what ``state`` saved, when training starts.

    If as many ranks go on with as many images each, they do what they would have done, to the bit. If not, the epoch
    goes on with the samples that nobody has seen, the learning rate at the same share of the run, and a line says so.
    """
    sums = saved["metrics"]
    if sums.shape != (saved["ranks"], 2 * len(metrics)) or not sums.is_floating_point():
        raise UserError(f"the checkpoint is damaged: its metrics have the shape {tuple(sums.shape)}")
    if trainer.fit_loop.restarted_mid_epoch:
        if len(sums) == trainer.world_size:
            _set_sums_(metrics, sums[trainer.global_rank])
        elif trainer.is_global_zero:
            _set_sums_(metrics, sums.sum(dim=0))
        _count_once_(trainer)
    before, now = {key: saved[key] for key in _make_up(trainer)}, _make_up(trainer)
    if before != now:
        _convert_(trainer)
        if trainer.is_global_zero:
            print(
                f"going on at step {trainer.global_step} with {_in_words(now)}, instead of {_in_words(before)}; "
                "the rest of the epoch holds what it would have held, the learning rate is that of the same share of "
                "the run, and the scores will not be those of an uninterrupted run to the bit",
                file=sys.stderr,
            )


def _count_once_(trainer: Trainer) -> None:
    """Keep Lightning from counting twice the last step of an epoch that was cut short.

    Lightning skips the validation that came after that step, and then counts the step again.
    """
    loop = trainer.fit_loop.epoch_loop
    assert trainer.fit_loop._data_fetcher is not None
    if loop.restarted_on_last and loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
        loop._batches_that_stepped = min(loop._batches_that_stepped, trainer.global_step - 1)


def _make_up(trainer: Trainer) -> dict[str, int | None]:
    batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    return {
        "ranks": trainer.world_size,
        "batch_size": batch_size,
        "accumulate": trainer.accumulate_grad_batches,
        "batches": int(batches) if isfinite(batches := trainer.num_training_batches) else None,
    }


def _in_words(make_up: dict[str, int | None]) -> str:
    ranks, batch_size, accumulate = make_up["ranks"], make_up["batch_size"], make_up["accumulate"]
    times = f" x {accumulate} batches" if accumulate != 1 else ""
    return f"{ranks} x {batch_size or 'any number of'} images{times} a step, {make_up['batches']} batches an epoch"


def _convert_(trainer: Trainer) -> None:
    """Say where in the run it is, in the steps that there are now."""
    loop: Any
    loop, batches = trainer.fit_loop, trainer.num_training_batches
    done = 0
    if loop.restarted_mid_epoch:
        assert loop._combined_loader is not None
        (loader,) = loop._combined_loader.flattened
        if isinstance(loader, EpochLoader):
            # One at least is left, or Lightning would begin the epoch again.
            done = int(batches) - max(1, loader.remaining(int(batches)))
            current = loop.epoch_loop.batch_progress.current
            shift = done - current.ready
            for key in ("ready", "started", "processed", "completed"):
                setattr(current, key, getattr(current, key) + shift)
    accumulate, epochs = trainer.accumulate_grad_batches, trainer.max_epochs or -1
    steps = math.ceil(batches / accumulate)
    if epochs > 0 and not 0 <= trainer.max_steps < epochs * steps:  # else the run is counted in steps, as before
        position = loop.epoch_progress.current.processed * steps + done // accumulate
        for config in trainer.lr_scheduler_configs:
            config.scheduler.last_epoch = position


def _sums(metrics: list[MeanMetric]) -> Tensor:
    return torch.stack([value for metric in metrics for value in (metric.mean_value, metric.weight)])


def _set_sums_(metrics: list[MeanMetric], sums: Tensor) -> None:
    for metric, (mean_value, weight) in zip(metrics, sums.view(-1, 2), strict=True):
        metric.mean_value.copy_(mean_value)
        metric.weight.copy_(weight)
        metric._update_count = 1  # or torchmetrics takes it for one that has seen nothing


def _of_all_ranks(values: Tensor, ranks: int) -> Tensor:
    """The values of each rank: (ranks, values), on the CPU."""
    if ranks == 1:
        return values[None].cpu()
    everyone = [torch.empty_like(values) for _ in range(ranks)]
    distributed.all_gather(everyone, values)
    return torch.stack(everyone).cpu()
