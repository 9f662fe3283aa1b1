"""Masks found by training: train, prune the smallest weights, rewind or not, and repeat."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.masking import selection
from lightning_subnets.masking.maskable import matching
from lightning_subnets.masking.masked_weight import check_shapes
from lightning_subnets.masking.prune_at_init import PruneAtInit, set_masks_
from lightning_subnets.training.callbacks import averaging
from lightning_subnets.training.callbacks.rank_consistency import average_norms_
from lightning_subnets.training.masked_module import MaskedModule, network_of
from lightning_subnets.training.schedule import Rounds, steps_of_epoch


class IterativePruning(Callback):
    """Trains in rounds, and prunes the smallest of the remaining weights before each round except the first.

    Of n remaining weights, the n - int(fraction * n) of the largest |w| stay; of equal ones, the first. A pruned weight
    never comes back. Each round starts without momenta. With ``rewind_to`` = r, all trained parameters and the running
    statistics of norms are restored to their values after step r, to the bit: lottery tickets. Without it, a round
    continues with the current weights: iterative pruning.

    Each round follows the learning rate schedule that the module has for one round, with warm-up. After a rewind, it
    follows the schedule from step r on, in whole epochs: if an epoch of the first round has S steps, a later round has
    ``epochs_per_round`` - int(r / S) epochs, and its last r mod S steps have the rate of the schedule's end, 0 for
    cosine. Every epoch of the run has its own order of the data.

    The validation and the checkpoint of a round's last epoch use the mask of that round, because pruning is the first
    thing in the next epoch. ``last.ckpt`` ends as the network of the last round. ``best.ckpt`` is the best of all
    rounds, often an early one, which keeps more weights. To keep the network of each round, add Lightning's
    ``ModelCheckpoint`` with ``every_n_epochs``, ``save_top_k: -1`` and a ``dirpath``. A checkpoint also holds a copy of
    the values to rewind to.

    Logs by epoch ``pruning/round``, the number of prunings so far, and ``density``, kept / total of all masked weights.

    Args:
        rounds: the number of prunings. There is one more training, and ``trainer.max_epochs`` must be the epochs of all
            rounds, ``(rounds + 1) * epochs_per_round`` if step r is in the first epoch.
        epochs_per_round: epochs of the first round.
        fraction: of the remaining weights to prune each time, in (0, 1).
        scope: ``global`` ranks the weights of all layers together; ``layer`` ranks those of each layer.
        rewind_to: an optimizer step of the first round, 0 for the initialization; null for no rewind.
        fractions: for weights whose name, or whose module's name, matches a pattern, ``{"features.*": 0.15}``, instead
            of ``fraction``; the last match counts, and 0 keeps a weight as it is. Needs scope ``layer``.

    Raises:
        ValueError: if an argument is out of range; before training, if the method's masks change while weights are
            trained, a pattern matches no weight, the run has a different number of epochs, or ``rewind_to`` is not in
            the first round.
    Source: Frankle and Carbin 2019, "The Lottery Ticket Hypothesis"; Frankle et al. 2020, "Linear Mode Connectivity and
        the Lottery Ticket Hypothesis", for rewinding to a step.
    """

    def __init__(
        self,
        rounds: int,
        epochs_per_round: int,
        fraction: float = 0.2,
        scope: Literal["global", "layer"] = "global",
        rewind_to: int | None = 0,
        fractions: dict[str, float] | None = None,
    ) -> None:
        for name, value in (("rounds", rounds), ("epochs_per_round", epochs_per_round)):
            if value < 1:
                raise UserError(f"{name} = {value} is below 1")
        if not 0.0 < fraction < 1.0:
            raise UserError(f"fraction = {fraction} is outside (0, 1): 0.2 prunes 20 % of the remaining weights")
        if rewind_to is not None and rewind_to < 0:
            raise UserError(f"rewind_to = {rewind_to} is below 0: 0 is the initialization, null is no rewind")
        for pattern, share in (fractions or {}).items():
            if not 0.0 <= share < 1.0:
                raise UserError(f"the fraction {share} of {pattern!r} is outside [0, 1)")
        if fractions and scope == "global":
            raise UserError("fractions need the scope layer: set scope to layer, or take fraction")
        self.rounds, self.epochs_per_round, self.fraction = rounds, epochs_per_round, fraction
        self.scope, self.rewind_to, self.fractions = scope, rewind_to, fractions or {}
        self._begin()

    def _begin(self) -> None:
        self.pruned = 0  # the number of prunings so far
        self._kept: dict[str, Tensor] = {}  # the values to rewind to, by name, on the CPU
        self._steps_per_epoch: int | None = None  # at the start of the run; rewind_to counts them
        self._resumed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # a checkpoint is loaded later
            self._begin()

    def check(self, module: MaskedModule, trainer: Trainer) -> None:
        """Check method, patterns and epochs before training, see ``preflight``."""
        if not isinstance(module.method, PruneAtInit):
            raise UserError(
                f"IterativePruning needs masks that stay while weights are trained, and {type(module.method).__name__} "
                "has none: set --model.method=Magnitude --model.method.density=1.0"
            )
        matching(self.fractions, masking.masked_weights(module.network), "fractions")
        if not self.rewind_to:  # otherwise the number of epochs depends on the data
            self._check_epochs(trainer, self.epochs_per_round)

    def schedule(self, trainer: Trainer) -> Rounds:
        """Return the part of the learning rate schedule that each round follows.

        Raises:
            ValueError: if ``rewind_to`` is beyond the first round, or the run does not end with the last round.
        """
        steps = steps_of_epoch(trainer, "IterativePruning")
        self._steps_per_epoch = self._steps_per_epoch or steps
        start, first = self.rewind_to or 0, self.epochs_per_round * self._steps_per_epoch
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            if start >= first:
                raise UserError(
                    f"rewind_to = {start} is not in the first round: its {first} steps are 0 to {first - 1}"
                )
            self._check_epochs(trainer, self._later_epochs)
        # A run that resumes with another batch size has the same epochs of another number of steps.
        self._start = start * steps / self._steps_per_epoch
        return Rounds(self.epochs_per_round * steps, self._later_epochs * steps, self._start)

    @property
    def _later_epochs(self) -> int:
        """Epochs of a round after the first."""
        assert self._steps_per_epoch is not None
        return self.epochs_per_round - (self.rewind_to or 0) // self._steps_per_epoch

    def _check_epochs(self, trainer: Trainer, later: int) -> None:
        epochs = self.epochs_per_round + self.rounds * later
        if trainer.max_epochs != epochs and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UserError(
                f"max_epochs = {trainer.max_epochs}, and a round of {self.epochs_per_round} epochs with {self.rounds} "
                f"of {later} after it has {epochs}: set --trainer.max_epochs={epochs}"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step and not self._resumed:
            raise UserError(
                "the checkpoint is of a run without IterativePruning, so its rounds have no beginning: start a new "
                "run, with model.weights null to start from trained weights"
            )
        if self.rewind_to == 0 and not self._kept:
            self._keep(trainer, pl_module)
        if self._kept:
            check_shapes(self._kept, _trained(network_of(pl_module)), "the checkpoint is")

    # This callback comes before those that write checkpoints.
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.rewind_to and not self._kept and trainer.lr_scheduler_configs[0].scheduler.last_epoch >= self._start:
            self._keep(trainer, pl_module)

    # The validation, statistics and checkpoint at the end of a round use the mask of the round, so pruning comes after.
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        beyond_first = trainer.current_epoch - self.epochs_per_round
        begun = 0 if beyond_first < 0 else 1 + beyond_first // self._later_epochs
        if self.pruned >= begun:
            return
        network = network_of(pl_module)
        self.prune_(network)
        if self.rewind_to is not None:
            _put_back_(network, self._kept)
            averaging.restart_(trainer, pl_module)
        trainer.optimizers[0].state.clear()
        self.pruned += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("pruning/round", float(self.pruned), sync_dist=True)
        pl_module.log("density", masking.density(network_of(pl_module)), sync_dist=True)

    @torch.no_grad()
    def prune_(self, network: nn.Module) -> None:
        """Prune a masked network once, in place: n - int(fraction * n) of n remaining weights stay."""
        masks = masking.masks(network)
        weights = masking.masked_weights(network)
        magnitudes = {name: each.weight.abs().where(masks[name], -1.0) for name, each in weights.items()}
        if self.scope == "global":
            left = sum(int(mask.sum()) for mask in masks.values())
            set_masks_(network, selection.top_k_together(magnitudes, left - int(self.fraction * left)))
            return
        fractions = dict.fromkeys(masks, self.fraction)
        for pattern, share in self.fractions.items():
            fractions |= dict.fromkeys(matching([pattern], masks, "fractions"), share)
        counts = [(left := int(mask.sum())) - int(fractions[name] * left) for name, mask in masks.items()]
        chosen = selection.top_k_each(list(magnitudes.values()), counts)
        set_masks_(network, dict(zip(masks, chosen, strict=True)))

    def _keep(self, trainer: Trainer, module: LightningModule) -> None:
        network = network_of(module)
        average_norms_(trainer, network)  # because a checkpoint holds the values of rank 0
        self._kept = {name: tensor.detach().cpu().clone() for name, tensor in _trained(network).items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "pruned": self.pruned,
            "kept": self._kept,
            "steps_per_epoch": self._steps_per_epoch,
            **{name: getattr(self, name) for name in _FIXED},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in _FIXED:
            if state_dict[name] != getattr(self, name):
                raise UserError(
                    f"the checkpoint is of a run with {name} = {state_dict[name]} of IterativePruning, and this run "
                    f"has {name} = {getattr(self, name)}: keep the value of the checkpoint"
                )
        self.pruned, self._kept = state_dict["pruned"], state_dict["kept"]
        self._steps_per_epoch, self._resumed = state_dict["steps_per_epoch"], True


def _trained(network: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters and the running statistics of norms."""
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    return {**trained, **dict(network.named_buffers())}


@torch.no_grad()
def _put_back_(network: nn.Module, kept: dict[str, Tensor]) -> None:
    for name, tensor in _trained(network).items():
        tensor.copy_(kept[name])


# The arguments that determine the position of a round in the run.
_FIXED = ("epochs_per_round", "rewind_to")
