"""The base of ``SubnetModule``: its attributes, passes and metrics.

It has a module of its own for callbacks and checks: ``module`` imports them, so they cannot import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch._dynamo.exc import ShortenTraceback
from torchmetrics import MeanMetric

from lightning_subnets.datamodules.labelled_batch import hard_labels
from lightning_subnets.datamodules.loader import seed_of
from lightning_subnets.errors import UserError
from lightning_subnets.graph.logits import logits_of
from lightning_subnets.masking import cached_weight
from lightning_subnets.masking.masked_weight import MaskedWeight
from lightning_subnets.masking.method import Method
from lightning_subnets.training.schedule import Schedule

_Kind = TypeVar("_Kind", bound=Callback)


class MaskedModule(LightningModule):
    """What the callbacks and checks need of a ``SubnetModule``.

    Attributes:
        network: masked.
        method: of the network.
        seed: of the weights and the scores.
        identity: the arguments that a checkpoint must agree on, as plain values.
        optimizer: builds the optimizer from parameters.
        schedule: of the learning rate.
        known_digest: of the frozen weights, with the versions of the parameters that it was computed from.
    """

    network: nn.Module
    method: Method
    seed: int
    identity: dict[str, Any]
    optimizer: OptimizerCallable
    schedule: Schedule
    known_digest: tuple[object, str] | None
    loss: nn.CrossEntropyLoss
    metrics: nn.ModuleDict
    memory_format: torch.memory_format
    _weights: list[MaskedWeight]
    _pruned: bool = False  # whether the method has pruned at initialization
    _to_unfreeze: tuple[nn.Parameter, ...] = ()  # the parameters that ``freeze`` has frozen

    def freeze(self) -> Self:
        """Freeze all parameters and switch to evaluation, until ``unfreeze``."""
        self._to_unfreeze += tuple(parameter for parameter in self.parameters() if parameter.requires_grad)
        super().freeze()
        return self

    def unfreeze(self) -> Self:
        """Undo ``freeze``, and switch to training. Parameters that the method does not train stay frozen."""
        for parameter in self._to_unfreeze:
            parameter.requires_grad = True
        self._to_unfreeze = ()
        return self.train()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (batch, classes) of normalised images (batch, channels, height, width)."""
        if self.network._compiled_call_impl:  # otherwise each read refreshes a cached weight
            cached_weight.refresh_(self._weights)
        output = self.compiled(self.network, images.to(self.dtype, memory_format=self.memory_format))
        return logits_of(self.network, output)

    def compiled(self, function: Callable[[Tensor], Any], tensor: Tensor) -> Any:
        """Call a compiled function.

        Raises:
            ValueError: if torch.compile does not work on this machine.
        """
        try:
            return function(tensor)
        except ShortenTraceback as error:  # the compiler has failed, or Triton is missing, or the GPU is too old for it
            reason = str(error).splitlines()[0]
            raise UserError(f"torch.compile does not work here ({reason}): set --model.compile=false") from error

    def _logits(self, images: Tensor, batch_idx: int) -> Iterator[Tensor]:
        """Yield the logits of each pass of an evaluation, with random numbers that depend only on the batch."""
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            torch.manual_seed(seed_of(self.seed, batch_idx, self.global_rank))
            for _ in range(self.method.num_eval_passes):
                yield self(images)

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        for logits in self._logits(images, batch_idx):
            best = logits.topk(min(5, logits.shape[-1])).indices == hard_labels(labels)[:, None]
            self._update(f"{stage}/loss", self.loss(logits, labels).expand(len(labels)))
            self._update(f"{stage}/accuracy", best[:, 0].float())
            self._update(f"{stage}/top5", best.any(dim=1).float())

    def _update(self, name: str, values: Tensor) -> None:
        """Add a value per sample, because torchmetrics 1.9 ignores weights with ``nan_strategy="disable"``."""
        metric = self.metrics[name]
        assert isinstance(metric, MeanMetric)
        metric.update(values)

    def _metrics_of(self, stage: str) -> dict[str, MeanMetric]:
        """Return the metrics of train, val or test by name."""
        return {name: metric for name, metric in self.metrics.items() if name.startswith(stage)}  # type: ignore[misc]

    def _reset_metrics(self, stage: str) -> None:
        """Forget what an interrupted pass has counted."""
        for metric in self._metrics_of(stage).values():
            metric.reset()

    def _log_metrics(self, stage: str) -> None:
        """Log a stage's metrics, exact over all ranks and samples."""
        for name, metric in self._metrics_of(stage).items():
            self.log(name, metric)

    @property
    def _fitting(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    def _check_one_loader(self) -> None:
        if self.trainer.testing:
            counts = self.trainer.num_test_batches
        elif self.trainer.predicting:
            counts = self.trainer.num_predict_batches
        else:
            counts = self.trainer.num_val_batches
        if len(counts) > 1:
            raise UserError(
                f"there are {len(counts)} loaders to evaluate on: return one loader, for instance over a ConcatDataset"
            )

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Return a new optimizer over the parameters that the method trains.

        Raises:
            ValueError: if the optimizer refuses its arguments.
        """
        try:
            return self.optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        except ValueError as error:
            raise UserError(
                f"the optimizer cannot be built ({error}): check the arguments of model.optimizer"
            ) from error


def callbacks_of(trainer: Trainer, kind: type[_Kind]) -> list[_Kind]:
    """Return the callbacks of a kind; Lightning does not type the attribute."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def network_of(module: LightningModule) -> nn.Module:
    """Return the network of a callback's module; Lightning does not type the attribute."""
    network = module.network
    assert isinstance(network, nn.Module)
    return network
