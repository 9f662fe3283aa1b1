"""Checks before training, before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.errors import UserError, listed
from lightning_subnets.masking.maskable import BATCH_NORM_FORWARDS, matching, parameters_of
from lightning_subnets.masking.masked_weight import scores_names, states_of
from lightning_subnets.masking.method import check_identity
from lightning_subnets.training.callbacks import averaging
from lightning_subnets.training.callbacks.best_checkpoint import BestCheckpoint
from lightning_subnets.training.callbacks.gradual_density import GradualDensity
from lightning_subnets.training.callbacks.iterative_pruning import IterativePruning
from lightning_subnets.training.lightning_internals import syncs_batchnorm, validates_by_time
from lightning_subnets.training.masked_module import MaskedModule
from lightning_subnets.training.trial_pass import check_single_image, trial_logits, weights_without_gradient

# With these precisions, weights and scores keep the bits that the seed gives them.
_PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed")

_SHARDING = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)

_LIMITS = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}


def check(
    module: MaskedModule, trainer: Trainer, data: LightningDataModule | None, *, command: str | None = None
) -> None:
    """Check that network, data, optimizer, callbacks and trainer fit each other.

    Args:
        module: to be trained.
        trainer: of the run.
        data: to train on; None if there is no data module.
        command: ``fit``, ``test`` and so on if a command line has one that the trainer does not know of yet.

    Raises:
        ValueError: if they do not fit. The message names the option to change.
    """
    if isinstance(trainer.strategy, _SHARDING):
        raise UserError(
            f"{type(trainer.strategy).__name__} gives each process a part of a weight, and masks are chosen from whole "
            "weights: take --trainer.strategy=ddp"
        )
    optimizer = module.build_optimizer()
    if module.network._compiled_call_impl and trainer.strategy.root_device.type == "cpu":
        module.compiled(torch.compile(torch.neg), torch.zeros(1))
    if trainer.precision not in _PRECISIONS:
        mixed = "16-mixed" if trainer.precision == "16-true" else "bf16-mixed"
        raise UserError(
            f"precision {trainer.precision} would round the weights and the scores, so small updates would be lost: "
            f"take {mixed}, or one of {', '.join(_PRECISIONS)}"
        )
    if command in _LIMITS and getattr(trainer, _LIMITS[command]) == 0:  # the test after a fit may be left out
        raise UserError(
            f"trainer.{_LIMITS[command]} is 0, here or in the config of the run, which leaves nothing to {command}: "
            f"add --trainer.{_LIMITS[command]}=1.0"
        )
    fitting = trainer.state.fn == TrainerFn.FITTING
    trains = fitting or command == "fit"
    if trains and syncs_batchnorm(trainer) and (norms := _norms_with_own_forward(module.network)):
        raise UserError(
            f"--trainer.sync_batchnorm would replace {listed(norms)} of {type(module.network).__name__} by torch's "
            "SyncBatchNorm, without what their own forward computes, an activation for instance: leave it out, or take "
            "a network with torch's batch norms"
        )
    if syncs_batchnorm(trainer) and trainer.strategy.root_device.type == "cpu":
        raise UserError("--trainer.sync_batchnorm needs GPUs: torch's SyncBatchNorm has no other implementation")
    if validates_by_time(trainer) and trainer.world_size > 1:
        raise UserError(
            "val_check_interval as a time is measured by each process for itself, so one would validate while another "
            "trains, and both would wait for ever: set --trainer.val_check_interval to a number of batches"
        )
    if module.schedule == "cosine" and trainer.max_epochs == trainer.max_steps == -1:
        raise UserError("the cosine schedule needs an end: set --trainer.max_epochs or --trainer.max_steps")
    averaging.check(module, trainer)
    scales_back = trainer.precision == "16-mixed" and getattr(optimizer, "_step_supports_amp_scaling", False)
    if trains and scales_back and trainer.gradient_clip_val:
        raise UserError(
            f"gradient_clip_val = {trainer.gradient_clip_val} cannot clip the gradients that 16-mixed has scaled: "
            f"a fused {type(optimizer).__name__} scales them back in its step, so set --model.optimizer.fused=false "
            "or --trainer.precision=bf16-mixed"
        )
    if fitting:
        _check_all_masked(module)
    check_identity(type(module.method).__name__, module.identity)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for refused, reason in _REFUSED.items():
            if isinstance(callback, refused):
                raise UserError(f"{refused.__name__} {reason}")
        if isinstance(callback, (GradualDensity, IterativePruning)):
            callback.check(module, trainer)
    if trains:
        _check_monitors(module, trainer)
    if isinstance(data, ImageDataModule):
        _check_images(module, data, trains=trains)
        if trains and data.batch_size == 1:
            check_single_image(module, _image(module, data), "batch_size = 1")
        if fitting and (unread := weights_without_gradient(module, _image(module, data))):
            print(f"no gradient reaches {listed(unread)}, because training never reads them", file=sys.stderr)


def check_optimizers(module: MaskedModule, trainer: Trainer, ours: Callable[..., object]) -> None:
    """Check that the optimizer of ``SubnetModule`` is used, by its own steps.

    Raises:
        ValueError: before a fit, if a subclass or Lightning's command line overrides our ``configure_optimizers``, or
            if a subclass steps the optimizer itself. The message says what to do instead.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        return
    if not module.automatic_optimization:
        raise UserError(
            f"{type(module).__name__} sets automatic_optimization = False, and then Lightning calls neither the "
            "learning rate schedule nor what a method does after a step: leave it True and return the loss from "
            "training_step, or train the masked network in a loop of your own"
        )
    if getattr(module.configure_optimizers, "__func__", None) is not ours:
        raise UserError(
            f"{type(module).__name__} overrides configure_optimizers, and a run is resumed with the optimizer and the "
            "schedule of SubnetModule: remove the method, and pass schedule, warmup_epochs and optimizer=lambda "
            "parameters: torch.optim.Adam(parameters, lr=1e-3) instead (--model.optimizer on a command line)"
        )


# These callbacks of Lightning change values that are computed once when training begins: the scale of the learning
# rate, its schedule, the number of steps, and the parameters that are trained. A resumed run would lack their changes.
_REFUSED: dict[type[Callback], str] = {
    GradientAccumulationScheduler: (
        "changes the number of images in a step after the learning rate and its schedule are computed for it: set "
        "--trainer.accumulate_grad_batches instead"
    ),
    BatchSizeFinder: (
        "changes the batch size after the learning rate and its schedule are computed for it: set --data.batch_size "
        "(batch_size= of the data module in Python)"
    ),
    LearningRateFinder: (
        "cannot set the learning rate, because the optimizer and the schedule have it already: compare short runs "
        "with different values of --model.optimizer.lr (optimizer= in Python)"
    ),
    StochasticWeightAveraging: (
        "cannot be resumed, and its average is in no checkpoint: take WeightAveraging, which averages all steps "
        "equally, or EMAWeightAveraging with update_starting_at_step"
    ),
    ModelPruning: "changes frozen weights instead of masks: take --model.method=Magnitude or IterativePruning",
    BackboneFinetuning: "changes which parameters are trained, and the method decides that: remove this callback",
}


def _check_monitors(module: MaskedModule, trainer: Trainer) -> None:
    """Check that what callbacks monitor exists; Lightning only notices after an epoch.

    A name like those of our metrics is refused only if nothing but classes of Lightning and of this package is in the
    run, because a subclass, or another callback, may log it.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    packages = {type(each).__module__.partition(".")[0] for each in (module, *callbacks)}
    if packages - {"lightning", "lightning_subnets"} or any(isinstance(each, LambdaCallback) for each in callbacks):
        return
    # Before a fit, the trainer does not know yet whether there are images to validate on.
    fitting = trainer.state.fn == TrainerFn.FITTING
    validates = trainer.enable_validation if fitting else trainer.limit_val_batches != 0
    logged = [name for name in module.metrics if name.startswith(("train/", "val/") if validates else "train/")]
    for callback in callbacks:
        monitored = callback.monitor if isinstance(callback, (EarlyStopping, ModelCheckpoint)) else None
        if isinstance(callback, EarlyStopping) and not callback.strict:  # the metric may be missing
            continue
        if isinstance(callback, BestCheckpoint):  # the command adds it, also if the data have no validation
            continue
        if isinstance(callback, ModelCheckpoint) and callback.save_last and str(monitored) in module.metrics:
            continue  # it saves the last checkpoint without a metric too
        if monitored and monitored not in logged and monitored.startswith(("loss", "acc", "train_", "val", "test")):
            raise UserError(
                f"{type(callback).__name__} monitors {monitored}, which training does not log: set its monitor to "
                f"{', '.join(logged[:-1])} or {logged[-1]}"
            )


def _check_all_masked(module: MaskedModule) -> None:
    """Check that no weight has been added since the network was masked, because it would be dense."""
    network = module.network
    unmasked = {
        name: each
        for name, each in parameters_of(network).items()
        if each.named and not all(key in states_of(module) for module, key in each.owners)
    }
    added = unmasked.keys() - scores_names(network)
    for pattern in module.identity.get("keep_dense", ()):
        with suppress(UserError):  # of a pattern that matches nothing
            added -= matching([pattern], unmasked, "keep_dense").keys()
    if added:
        names = [name for name in unmasked if name in added]
        raise UserError(
            f"{listed(names)} of {type(network).__name__} would be dense, because the network was masked before it had "
            f"this weight: replace layers such as the head first, and then build SubnetModule; or set keep_dense="
            f"{names[:3]}"
        )


def _norms_with_own_forward(network: nn.Module) -> list[str]:
    """Return the names of the batch norms whose forward is not torch's: many in timm compute an activation too."""
    norms = {name: each for name, each in network.named_modules() if isinstance(each, _BatchNorm)}
    return [
        name or type(each).__name__ for name, each in norms.items() if type(each).forward not in BATCH_NORM_FORWARDS
    ]


def _image(module: MaskedModule, data: ImageDataModule) -> Tensor:
    return torch.zeros(1, *data.image_shape, device=module.device)


def _check_images(module: MaskedModule, data: ImageDataModule, *, trains: bool) -> None:
    name, classes = type(module.network).__name__, len(data.classes)
    outputs = trial_logits(module, _image(module, data), type(data).__name__).shape[1]
    spare = getattr(module.network, "spare_outputs", 0)
    if outputs - spare != classes:
        option = f"num_classes={classes}"
        remedy = (
            f"set --model.network.{option} (timm: --model.network.dict_kwargs.{option})"
            if trains
            else f"evaluate it on data with the {outputs - spare} classes that it has learned"
        )
        raise UserError(
            f"{name} has {outputs - spare} outputs and {type(data).__name__} has {classes} classes: {remedy}"
        )
