"""The LightningModule: a masked network, its steps, its metrics, and its optimizer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from lightning_subnets import masking
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.labelled_batch import hard_labels, images_and_labels
from lightning_subnets.datamodules.loader import seed_of
from lightning_subnets.datamodules.pruning_batches import pruning_data
from lightning_subnets.errors import UserError
from lightning_subnets.masking import cached_weight, prune_at_init
from lightning_subnets.masking.choice import Choice, Norms, distribution_for, warn_of_matrices
from lightning_subnets.masking.method import Method
from lightning_subnets.masking.selection import NaNError
from lightning_subnets.training import checkpoint as subnet_checkpoint
from lightning_subnets.training import identity, preflight, resuming, run_masks, trial_pass
from lightning_subnets.training.callbacks import (
    Averaging,
    Collapse,
    Divergence,
    Frozen,
    IterativePruning,
    OwnLoader,
    RankConsistency,
)
from lightning_subnets.training.callbacks.divergence import diverged_at
from lightning_subnets.training.masked_module import MaskedModule, callbacks_of
from lightning_subnets.training.schedule import (
    Schedule,
    images_per_step,
    learning_rate_factor,
    steps_of_epoch,
    steps_of_run,
)


class SubnetModule(MaskedModule):
    """A masked network that learns to classify images.

    Logs by epoch ``train/loss`` and ``train/accuracy``, and ``loss``, ``accuracy`` and ``top5`` under ``val/`` and
    ``test/``; by step ``train/loss_step``, ``train/accuracy_step`` and ``learning_rate``. Accuracies are fractions;
    top5 counts a hit among the five largest logits. Images are (batch, channels, height, width), labels (batch,). Soft
    labels (batch, classes), as MixUp and CutMix make them, enter the loss as they are, and the accuracies as their most
    probable class. A hook or a step that a subclass overrides has to call that of this class, for instance
    ``super().on_fit_start()``.

    Args:
        network: from torchvision, timm, ``lightning_subnets.networks`` or elsewhere; it is masked in place.
        method: the way to find the subnetwork.
        weights: the distribution to draw the weights from, see ``mask_``; null keeps the weights of the network, and
            auto keeps them if the method trains weights.
        seed: of the weights and the scores.
        optimizer: for the parameters that the method trains.
        lr_batch_size: the images per step that the optimizer's learning rate is given for. It is scaled linearly to the
            global batch, over all processes and accumulation (Goyal et al. 2017, section 2.1); null does not scale it.
        schedule: of the learning rate by optimizer step: ``cosine`` falls to 0 at the last step, ``constant`` stays.
        warmup_epochs: epochs over which the rate rises linearly at first.
        label_smoothing: the share of the target that is spread evenly over all classes, in [0, 1].
        channels_last: the memory format of images and network, faster for convolutions on a GPU.
        compile: compile the network with ``torch.compile``, which takes time at the start of a run.
        allow_collapse: train even if no path leads from inputs to outputs.
        keep_dense: patterns of weights that stay dense, see ``mask_``.
        also_mask: patterns of further parameters to mask.
        densities: fraction of weights kept by pattern, instead of the method's density.
        norms: whether the scales and shifts of norms are ``trained`` beside the scores, or ``frozen``.

    Raises:
        ValueError: if an argument is out of range, or the network cannot be masked.
    """

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        *,
        weights: str | None = "auto",
        seed: int = 0,
        optimizer: OptimizerCallable = torch.optim.SGD,
        lr_batch_size: int | None = None,
        schedule: Schedule = "cosine",
        warmup_epochs: float = 0.0,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
        compile: bool = False,
        allow_collapse: bool = False,
        keep_dense: list[str] | None = None,
        also_mask: list[str] | None = None,
        densities: dict[str, float] | None = None,
        norms: Norms = "frozen",
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing <= 1.0:
            raise UserError(f"label_smoothing = {label_smoothing} is outside [0, 1]")
        if warmup_epochs < 0.0:
            raise UserError(f"warmup_epochs = {warmup_epochs} is below 0")
        if lr_batch_size is not None and lr_batch_size < 1:
            raise UserError(f"lr_batch_size = {lr_batch_size} is below 1")
        seed = int(seed)  # jsonargparse returns a subclass of int, which a checkpoint would name
        weights = distribution_for(method, weights)
        choice = Choice.of(keep_dense, also_mask, densities, norms)
        self.network, self.method, self.seed = network, method, seed
        self.identity = identity.of_run(network, method, weights=weights, seed=seed, choice=choice)
        warn_of_matrices(network, choice)
        masking.install_masks_(network, method, weights=weights, seed=seed, choice=choice)
        self.optimizer, self.lr_batch_size = optimizer, lr_batch_size
        self.schedule, self.warmup_epochs, self.allow_collapse = schedule, warmup_epochs, allow_collapse
        self.loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)
        self._weights = list(masking.masked_weights(network).values())
        if compile:
            cached_weight.compile_(network, self._weights)
        evaluated = (f"{stage}/{name}" for stage in ("val", "test") for name in ("loss", "accuracy", "top5"))
        names = ("train/loss", "train/accuracy", *evaluated)
        # Ignoring NaN would hide a diverged loss, and make each step wait for the device.
        self.metrics = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in names})
        self._checked: set[Any] = set()  # stages with a first batch that fits the network
        self._resumed: dict[str, Any] | None = None
        self.known_digest: tuple[object, str] | None = None

    def configure_callbacks(self) -> list[Callback]:
        if self.trainer.precision == "64-true":
            self.double()  # before a callback copies the network, and before a checkpoint is loaded into it
        return [OwnLoader(), Averaging(), Frozen(), RankConsistency(), Divergence(), Collapse(self.allow_collapse)]

    def prepare_data(self) -> None:
        preflight.check_optimizers(self, self.trainer, SubnetModule.configure_optimizers)
        preflight.check(self, self.trainer, self.trainer.datamodule)  # type: ignore[attr-defined]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.build_optimizer()
        images = images_per_step(self.trainer)
        if images is None and (self.lr_batch_size or self.method.rerandomizes):
            name = "lr_batch_size" if self.lr_batch_size else type(self.method).__name__
            raise UserError(f"{name} counts images, and the data have no batch_size: give the data module one")
        if images and self.lr_batch_size:
            for group in optimizer.param_groups:
                group["lr"] *= images / self.lr_batch_size
        steps = steps_of_run(self.trainer, "the cosine schedule" if self.schedule == "cosine" else None)
        if self.global_rank == 0 and (why := self.method.too_short(steps)):
            print(why, file=sys.stderr)
        warmup = self.warmup_epochs and self.warmup_epochs * steps_of_epoch(self.trainer, "warmup_epochs")
        position: Callable[[int], float] = float
        for callback in callbacks_of(self.trainer, IterativePruning):
            rounds = callback.schedule(self.trainer)
            steps, position = rounds.steps, rounds.position
        scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(position(step), steps, warmup, self.schedule))
        self._options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Let the method prune at initialization, unless masks have been loaded."""
        if not self._pruned:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            with torch.inference_mode(False), torch.enable_grad():
                like, checked = next(self.network.parameters()), trial_pass.batch_checker(self, self.trainer)
                images = pruning_data(self.method, data, like=like, seed=self.seed, checked=checked)
                self.method.prune_(self.network, images._replace(read_masks=run_masks.read_masks))
            if self.trainer.world_size > 1:
                prune_at_init.share_masks_(self.network)
            self._pruned = True

    on_validation_start = on_test_start = on_predict_start = on_fit_start

    def on_train_start(self) -> None:
        self._check_one_loader()
        cached_weight.drop_(self._weights)
        self._reset_metrics("train")
        if self._resumed is not None:
            resuming.restore_(self.trainer, self._resumed, [*self._metrics_of("train").values()])
            self._resumed = None
        # This run's config and global batch set the optimizer's options, instead of the checkpoint.
        scheduler: Any = self.trainer.lr_scheduler_configs[0].scheduler
        scheduler.base_lrs = [options["initial_lr"] for options in self._options]
        for group, options in zip(self.trainer.optimizers[0].param_groups, self._options, strict=True):
            group.update(options, lr=options["initial_lr"] * scheduler.lr_lambdas[0](scheduler.last_epoch))

    def unmask_(self) -> nn.Module:
        """Remove the masks and return the network, to evaluate it with other weights."""
        self._weights, self._pruned = [], True
        return masking.unmask_(self.network)

    def on_train_epoch_start(self) -> None:
        # A loader that draws its own order draws another one in each epoch, and the same one on each rank.
        torch.manual_seed(seed_of(self.seed, self.current_epoch))

    def on_train_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        # Here and not in training_step: autocast keeps the weights that it casts in a pass without gradients, and the
        # training step would get these.
        data, stage = self.trainer.datamodule, self.trainer.state.stage.dataloader_prefix  # type: ignore
        if stage not in self._checked and not isinstance(data, ImageDataModule):
            source = "the Trainer" if data is None else type(data).__name__
            trial_pass.check_batch(self, batch, f"{source}'s {stage}_dataloader")
        self._checked.add(stage)

    on_validation_batch_start = on_test_batch_start = on_train_batch_start

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        # Then the random numbers of a step, for dropout for instance, depend only on its position in the run.
        torch.manual_seed(seed_of(self.seed, self.current_epoch, batch_idx, self.global_rank))
        try:
            logits = self(images)
        except NaNError as error:
            raise diverged_at(self.trainer, self.global_step, str(error)) from error
        loss: Tensor = self.loss(logits, labels)
        self._update("train/loss", loss.detach().expand(len(labels)))
        hits = (logits.detach().argmax(dim=-1) == hard_labels(labels)).float()
        self._update("train/accuracy", hits)
        self.log("train/loss_step", loss.detach())
        self.log("train/accuracy_step", hits.mean())
        # As a tensor, because Lightning would copy a number to the GPU, and wait for it.
        self.log("learning_rate", torch.as_tensor(self.trainer.optimizers[0].param_groups[0]["lr"]))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.method.after_step_(self.network, self.trainer.global_step + 1, images_per_step(self.trainer))

    def on_train_epoch_end(self) -> None:
        self._log_metrics("train")

    def on_validation_epoch_start(self) -> None:
        self._reset_metrics("val")
        self._begin_evaluation()

    def on_test_epoch_start(self) -> None:
        self._reset_metrics("test")
        self._begin_evaluation()

    def _begin_evaluation(self) -> None:
        self._check_one_loader()
        # Lightning may have replaced parameters, by their average for instance, without a new version of the tensors.
        cached_weight.drop_(self._weights)

    on_predict_epoch_start = on_train_end = on_fit_end = _begin_evaluation

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("val", batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        loss = self.metrics["val/loss"]
        assert isinstance(loss, MeanMetric)
        # All ranks compute the same loss, so they stop together.
        if self._fitting and not self.trainer.sanity_checking and not loss.compute().isfinite():
            if not loss.update_called:  # the mean of no values is NaN
                raise UserError(
                    f"{type(self).__name__}.validation_step does not call super().validation_step(batch, batch_idx), "
                    "which counts val/loss and val/accuracy: call it there, and log other metrics beside them"
                )
            raise diverged_at(self.trainer, self.trainer.global_step, "the validation loss is not finite")
        self._log_metrics("val")
        cached_weight.drop_(self._weights)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("test", batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the class probabilities (batch, classes). A loader of one's own may give images without labels."""
        images, _ = images_and_labels(batch)
        return torch.stack([logits.softmax(dim=-1) for logits in self._logits(images, batch_idx)]).mean(dim=0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["subnet"] = self.identity
        if state := identity.state_of(self.method, self.identity):
            checkpoint["method_state"] = state
        checkpoint["optimizer"] = type(self.build_optimizer()).__name__
        checkpoint["run"] = resuming.state(self.trainer, [*self._metrics_of("train").values()])
        Averaging.save_(self.trainer, checkpoint)
        subnet_checkpoint.leave_out_frozen_weights_(checkpoint, self)
        subnet_checkpoint.make_readable_(checkpoint)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load the state, whose masks replace pruning at initialization."""
        self._pruned = True
        return super().load_state_dict(*args, **kwargs)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        subnet_checkpoint.validate_and_complete_(checkpoint, self, to_train=self._fitting)
        resuming.check_data(self._trainer, checkpoint["run"])
        if self._fitting:
            resuming.correct_progress_(self.trainer, checkpoint)
            self._resumed = checkpoint["run"]
