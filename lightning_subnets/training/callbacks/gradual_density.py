"""A density that falls during training, while every evaluation is at the density of the method."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.masking import allocation, cached_weight
from lightning_subnets.methods import EdgePopup
from lightning_subnets.training.masked_module import MaskedModule, network_of
from lightning_subnets.training.schedule import current_step, steps_of_run


class GradualDensity(Callback):
    """Trains scores at a density that falls to the method's own.

    The method keeps k of a weight's n numbers, of which z are frozen edges that it never keeps (``PartiallyFrozen``).
    At optimizer step t of T, training keeps k(t) of them:

        k(t) = k + round((min(start * n, n - z) - k) * (1 - t / (until * T))^3), and k from t = until * T on.

    If the method ranks all weights together (``allocation="global"``), k and n are those of all. A weight that keeps
    more than ``start * n`` keeps k. Validation, tests, checkpoints and the files of a run are of the network at the
    method's density; a file that a callback saves within a step has the masks of that step. So this callback changes
    how scores are trained; and with ``IteRand``, which weights are unused and drawn again. A resumed run continues at
    its step.

    Args:
        start: the fraction of weights kept at the first step, in (0, 1].
        until: the fraction of the steps after which the density is the method's, in (0, 1].

    Raises:
        ValueError: if an argument is out of range; before training, if the method trains no scores, or does not keep a
            fixed number of each weight, or of all together.
    Source: the cubic schedule of Zhu and Gupta 2017, "To prune, or not to prune", equation 1.
    """

    def __init__(self, start: float = 1.0, until: float = 0.5) -> None:
        for name, value in (("start", start), ("until", until)):
            if not 0.0 < value <= 1.0:
                raise UserError(f"{name} = {value} is outside (0, 1]: 0.5 is a half")
        self.start, self.until = start, until
        self._own: dict[str, int | None] = {}  # the numbers kept that the masks have outside of steps, during training
        self._ends: dict[str, tuple[int, float]] = {}  # k, and how many more training keeps at the first step

    def check(self, module: MaskedModule, trainer: Trainer) -> None:
        """Check the method before training, see ``preflight``."""
        fixed = [each.num_kept for each in masking.masked_weights(module.network).values()]
        together = isinstance(module.method, EdgePopup) and module.method.global_ranking
        if module.method.trainable != "scores" or (None in fixed and not together):
            raise UserError(
                f"GradualDensity needs a method that trains scores and keeps a fixed number of weights, and "
                f"{type(module.method).__name__} does not: take EdgePopup, Biprop, IteRand, PartiallyFrozen or "
                "Multicoated"
            )

    # Not in ``check``, which runs on the first rank of a node only.
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = masking.masked_weights(network_of(pl_module))
        self._own = {name: each.num_kept for name, each in weights.items()}
        self._last = self.until * steps_of_run(trainer, "GradualDensity")
        for name, each in weights.items():
            size = sum(member.weight.numel() for member in each.global_group or (each,))
            kept = allocation.num_kept(size, each.method.density) if each.num_kept is None else each.num_kept
            most = min(self.start * size, size - (each.frozen_edges.never if each.frozen_edges else 0))
            self._ends[name] = kept, max(0.0, most - kept)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        left = max(0.0, 1.0 - current_step(trainer) / self._last) ** 3
        for name, each in masking.masked_weights(network_of(pl_module)).items():
            kept, extra = self._ends[name]
            each.state.num_kept = kept + round(extra * left)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        weights = masking.masked_weights(network_of(pl_module))
        for name, kept in self._own.items():
            weights[name].state.num_kept = kept

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_batch_end(trainer, pl_module)  # within a step, because the network may still be used
        self._own = {}
        cached_weight.drop_(masking.masked_weights(network_of(pl_module)).values(), with_edits=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._own = {}

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "until": self.until}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict != self.state_dict():
            raise UserError(
                f"the checkpoint is of a run with {state_dict} of GradualDensity, and this run has "
                f"{self.state_dict()}: keep the values of the checkpoint"
            )
