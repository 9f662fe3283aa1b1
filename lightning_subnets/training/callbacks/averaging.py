"""Averages the trained parameters of a network, and leaves the frozen ones alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn

from lightning_subnets.errors import UserError
from lightning_subnets.training.lightning_internals import average_of, begin_averaging, end_with_average, follows_device
from lightning_subnets.training.masked_module import MaskedModule, callbacks_of


class Averaging(Callback):
    """Makes Lightning's ``WeightAveraging``, and every subclass of it, average only what is trained.

    The average and the network in training share each frozen parameter as one tensor, for three reasons. The mean of
    equal values is not always that value to the bit: 0.9 w + 0.1 w is not always w. A boolean mask cannot be averaged.
    And weights that a method draws again or prunes have to change in the average at once.

    Until its first update, the average is the network in training wherever it is read. So an average that begins late
    has sensible validations before, and a run that ends earlier keeps what it has trained. Lightning would take the
    network that the run began with.

    The average replaces the network in each validation and when training ends. A checkpoint holds both, and one that is
    saved with save_weights_only holds the average.

    Raises:
        ValueError: if a run without an average begins from the checkpoint of a run with one.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        for callback in callbacks_of(trainer, WeightAveraging):
            begin_averaging(callback)
        for average in _averages(trainer):  # the user's callbacks come first, so the average exists by now
            _share_frozen_(average, pl_module)
            average.update_parameters = partial(_update_, average)  # type: ignore[method-assign]

    # Lightning makes the average, and loads that of a checkpoint, before it moves the network to its GPU. An average on
    # the CPU would copy every trained parameter from the GPU at each step.
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in callbacks_of(trainer, WeightAveraging):
            average = average_of(callback)
            if average is not None and follows_device(callback):
                average.module.to(pl_module.device)
            if average is not None:  # because each update reads the number of updates, and would wait for a GPU
                average.n_averaged = average.n_averaged.cpu()

    # This callback comes after those that average, and before those that write checkpoints. The average is read after
    # these hooks. A checkpoint that is being saved holds its tensors themselves.
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _follow_(trainer, pl_module)

    on_train_epoch_end = on_validation_start

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        _follow_(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.training and "averaging_state" in checkpoint and not callbacks_of(trainer, WeightAveraging):
            raise UserError(
                "the checkpoint holds the average of a network, and this run has no callback that averages: add the "
                "one in the config.yaml beside the checkpoint"
            )

    # If a run resumes at its end, it trains nothing and Lightning does not call on_train_end.
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in callbacks_of(trainer, WeightAveraging):
            end_with_average(callback, pl_module)

    @staticmethod
    def save_(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        """Put the average into a checkpoint of weights alone, because Lightning asks no callback for such a checkpoint.

        A validation measures the average, so a checkpoint that is kept for its score has to hold the average.
        """
        if "optimizer_states" not in checkpoint:
            _follow_(trainer, trainer.lightning_module)
            for average in _averages(trainer):
                checkpoint["state_dict"] = average.module.state_dict()


def check(module: MaskedModule, trainer: Trainer) -> None:
    """Check that at most one callback averages the network, and that its scores have a mean.

    Raises:
        ValueError: if several do, or if the method stores flags in its scores.
    """
    callbacks = callbacks_of(trainer, WeightAveraging)
    names = " and ".join(type(callback).__name__ for callback in callbacks)
    if names and module.method.flags_in_scores and trainer.state.fn == TrainerFn.FITTING:
        raise UserError(
            f"{names} averages scores, and some scores of {type(module.method).__name__} are flags of dropped edges, "
            "which an average would bring back: remove the callback, or take another method, EdgePopup for instance"
        )
    if len(callbacks) > 1:
        raise UserError(f"{names} average the network, which can have only one average: keep one of them")


def averaged_networks(trainer: Trainer) -> list[nn.Module]:
    """Return the averages that callbacks keep while the network is trained."""
    return [average.module.get_submodule("network") for average in _averages(trainer)]


def restart_(trainer: Trainer, module: LightningModule) -> None:
    """Set every average to the network as it is now, and begin averaging again from there."""
    for average in _averages(trainer):
        _copy_(module, average.module)
        average.n_averaged.zero_()


def _follow_(trainer: Trainer, module: LightningModule) -> None:
    """Set every average that has not been updated yet to the network as it is now."""
    for callback in callbacks_of(trainer, WeightAveraging):
        average = average_of(callback)
        counts_updates = type(callback).on_train_batch_end is WeightAveraging.on_train_batch_end
        if average is not None and counts_updates and not average.n_averaged:
            _copy_(module, average.module)


@torch.no_grad()
def _copy_(source: nn.Module, target: nn.Module) -> None:
    for value, copied in _not_shared(source, target):
        copied.copy_(value)


def _not_shared(source: nn.Module, target: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what two copies of a network do not share; frozen weights copied onto themselves would outdate masks."""
    ours, theirs = ((*each.parameters(), *each.buffers()) for each in (source, target))
    return ((value, copy) for value, copy in zip(ours, theirs, strict=True) if value.data_ptr() != copy.data_ptr())


def _averages(trainer: Trainer) -> list[AveragedModel]:
    averages = map(average_of, callbacks_of(trainer, WeightAveraging))
    return [average for average in averages if average is not None]


def _share_frozen_(average: AveragedModel, module: LightningModule) -> None:
    theirs = dict(average.module.named_modules())
    for name, ours in module.named_modules():
        for key, parameter in ours.named_parameters(recurse=False):
            if not parameter.requires_grad:
                theirs[name].register_parameter(key, parameter)


def _update_(average: AveragedModel, network: nn.Module) -> None:
    """Update an average as torch does, but skip the tensors that it shares with the network, and wait for no GPU."""
    if average.n_averaged:
        _average_(average, network)
    else:
        _copy_(network, average.module)
    average.n_averaged += 1


def _average_(average: AveragedModel, network: nn.Module) -> None:
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for value, mean in _not_shared(network, average.module):
        if average.use_buffers or isinstance(mean, nn.Parameter):
            groups[mean.device, mean.dtype].append((mean.detach(), value.detach().to(mean.device)))
        else:
            mean.copy_(value)
    average_one = average.avg_fn or get_swa_avg_fn()  # type: ignore[no-untyped-call]
    for (device, _), group in groups.items():
        count = average.n_averaged.to(device, non_blocking=True)
        if average.multi_avg_fn:
            means, values = map(list, zip(*group, strict=True))
            average.multi_avg_fn(means, values, count)
        else:
            for mean, value in group:
                mean.copy_(average_one(mean, value, count))
