"""The learning rate by optimizer step, and the number of images in a step."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from lightning.pytorch import Trainer

from lightning_subnets.errors import UserError
from lightning_subnets.training.lightning_internals import set_up_loaders

Schedule = Literal["cosine", "constant"]


def learning_rate_factor(step: float, steps: float, warmup: float, schedule: Schedule) -> float:
    """Return the factor of the learning rate at an optimizer step.

    Linear warm-up: min(1, (t + 1) / W) for t < W. Then cosine: (1 + cos(pi (t - W) / (T - W))) / 2, which is 0
    at t = T, after the last step; or constant: 1.

    Args:
        step: t, the number of steps done.
        steps: T, the steps of the whole run.
        warmup: W, the steps of warm-up.
        schedule: after the warm-up.
    Source: Loshchilov and Hutter 2017, Eq. 5; Goyal et al. 2017, section 2.2.
    """
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, steps - warmup)))) / 2


class Rounds(NamedTuple):
    """Rounds of training that all follow one schedule.

    Attributes:
        steps: T, the steps of the first round, which follows the schedule from 0 to T.
        later: the steps of each later round.
        start: the position in the schedule at which later rounds start; they may pass its end.
    """

    steps: int
    later: int
    start: float

    def position(self, step: int) -> float:
        """Return the position in the schedule of an optimizer step of the run."""
        return step if step < self.steps else self.start + (step - self.steps) % self.later


def steps_of_run(trainer: Trainer, needed_by: str | None = None) -> float:
    """Return the number of optimizer steps of a run; infinity if nothing says it before the run ends.

    Args:
        trainer: of the run.
        needed_by: names what needs a finite number, in the error message.

    Raises:
        ValueError: if the number is needed, and the training loader has no length or the run has no end.
    """
    set_up_loaders(trainer)
    steps = trainer.estimated_stepping_batches
    if steps >= 0 and math.isfinite(steps):
        return steps
    if trainer.limit_train_batches == 0:  # Lightning has not counted the batches then
        return 0
    if needed_by and trainer.max_epochs == -1:
        raise UserError(f"{needed_by} needs an end: set --trainer.max_epochs or --trainer.max_steps")
    if needed_by:
        raise UserError(
            f"{needed_by} needs the number of steps, and the training loader has no length: set --trainer.max_steps, "
            "or --trainer.limit_train_batches to the number of batches in an epoch"
        )
    return math.inf  # Lightning says max_steps, which may be -1


def current_step(trainer: Trainer) -> int:
    """Return the optimizer step, converted to this run's number of steps if it resumed with another number of ranks."""
    configs = trainer.lr_scheduler_configs
    return configs[0].scheduler.last_epoch if configs else trainer.global_step


def steps_of_epoch(trainer: Trainer, needed_by: str) -> int:
    """Return the number of optimizer steps in an epoch.

    Args:
        trainer: of the run.
        needed_by: names what needs the number, in the error message.

    Raises:
        ValueError: if the training loader has no length.
    """
    set_up_loaders(trainer)
    if trainer.limit_train_batches == 0:  # Lightning has not counted the batches then
        return 0
    if math.isinf(trainer.num_training_batches):
        raise UserError(
            f"{needed_by} counts epochs, and the training loader has no length: set --trainer.limit_train_batches to "
            "the number of batches in an epoch"
        )
    return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)


def images_per_step(trainer: Any) -> int | None:
    """Return the number of images in an optimizer step, over all ranks and accumulated batches.

    None if the data module has no ``batch_size``.
    """
    images: int | None = getattr(trainer.datamodule, "batch_size", None)
    return images and images * trainer.world_size * trainer.accumulate_grad_batches
