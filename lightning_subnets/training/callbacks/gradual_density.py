"""A density that falls during training, while every evaluation is at the density of the method."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.masking import cached_weight
from lightning_subnets.training.masked_module import MaskedModule, network_of
from lightning_subnets.training.schedule import current_step, steps_of_run


class GradualDensity(Callback):
    """Trains scores at a density that falls to the method's own.

    The method keeps k of a weight's n numbers, of which z are frozen edges that it never keeps (``PartiallyFrozen``).
    At optimizer step t of T, training keeps k(t) of them:

        k(t) = k + round((min(start * n, n - z) - k) * (1 - t / (until * T))^3), and k from t = until * T on.

    A weight that keeps more than ``start * n`` keeps k. Validation, tests, checkpoints and files are always of the
    network at the method's density, so this callback changes how scores are trained and nothing else. A resumed run
    continues at its step.

    Args:
        start: the fraction of weights kept at the first step, in (0, 1].
        until: the fraction of the steps after which the density is the method's, in (0, 1].

    Raises:
        ValueError: if an argument is out of range; before training, if the method does not fix the number of weights
            that each weight tensor keeps.
    Source: the cubic schedule of Zhu and Gupta 2017, "To prune, or not to prune", equation 1.
    """

    def __init__(self, start: float = 1.0, until: float = 0.5) -> None:
        for name, value in (("start", start), ("until", until)):
            if not 0.0 < value <= 1.0:
                raise UserError(f"{name} = {value} is outside (0, 1]: 0.5 is a half")
        self.start, self.until = start, until
        self._kept: dict[str, int] = {}  # by the method, by weight, during training

    def check(self, module: MaskedModule, trainer: Trainer) -> None:
        """Check the method before training, see ``preflight``."""
        fixed = [each.num_kept for each in masking.masked_weights(module.network).values()]
        if module.method.trainable != "scores" or None in fixed:
            raise UserError(
                f"GradualDensity needs a method that trains scores and keeps a fixed number of each weight, and "
                f"{type(module.method).__name__} does not: take EdgePopup with allocation uniform, Biprop, IteRand, "
                "PartiallyFrozen or Multicoated"
            )

    # On every rank, where preflight checks only the first one of a node.
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = masking.masked_weights(network_of(pl_module))
        self._kept = {name: each.num_kept for name, each in weights.items() if each.num_kept is not None}
        self._last = self.until * steps_of_run(trainer, "GradualDensity")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        left = max(0.0, 1.0 - current_step(trainer) / self._last) ** 3
        for name, each in masking.masked_weights(network_of(pl_module)).items():
            size = each.weight.numel()
            most = min(self.start * size, size - (each.frozen_edges.never if each.frozen_edges else 0))
            extra = max(0.0, most - self._kept[name])
            each.state.num_kept = self._kept[name] + round(extra * left)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        weights = masking.masked_weights(network_of(pl_module))
        for name, kept in self._kept.items():
            weights[name].state.num_kept = kept

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_batch_end(trainer, pl_module)  # within a step, because the network may still be used
        self._kept = {}
        cached_weight.drop_(masking.masked_weights(network_of(pl_module)).values(), with_edits=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._kept = {}

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "until": self.until}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict != self.state_dict():
            raise UserError(
                f"the checkpoint is of a run with {state_dict} of GradualDensity, and this run has "
                f"{self.state_dict()}: keep the values of the checkpoint"
            )
