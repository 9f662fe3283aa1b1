"""Scores from the loss on training images before training: its gradient and its Hessian."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_subnets.errors import UserError
from lightning_subnets.graph.logits import logits_of
from lightning_subnets.masking import allocation, selection
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit, weights_to_mask
from lightning_subnets.progress_bar import progress


class PruneByLoss(PruneAtInit):
    """A method that scores weights on training images and keeps the highest scores of all layers together."""

    requires = "batches"

    def __init__(self, density: float, *, samples_per_class: int = 10) -> None:
        self.density = allocation.check_density(density)
        if samples_per_class < 1:
            raise UserError(
                f"samples_per_class = {samples_per_class} is below 1: weights are scored on images, 10 a class"
            )
        self.samples_per_class = samples_per_class

    @abstractmethod
    def scores(self, network: nn.Module, data: PruningData) -> dict[str, Tensor]:
        """Return the scores of each weight by its name."""

    def compute_masks(self, network: nn.Module, data: PruningData) -> dict[str, Tensor]:
        scores = self.scores(network, data)
        total = sum(each.numel() for each in scores.values())
        return selection.top_k_together(scores, allocation.num_kept(total, self.density))


class ScoringLoss:
    """The mean cross-entropy over all scoring images, as a function of the weights to mask.

    L(w) = 1/N sum_n CE(z_n(w) / T, y_n), over the N images of all batches, with logits z and temperature T. It is
    computed batch by batch on a copy of the network, so it needs the memory of one batch. Norms use the statistics of
    the batch, as in training; dropout and stochastic depth are off, so that L depends on weights and images only.
    """

    def __init__(self, network: nn.Module, data: PruningData, *, temperature: float = 1.0) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.training = True  # not train(), because timm has norms with dropout inside
            if isinstance(module, nn.SyncBatchNorm):
                # Without a running mean it takes the statistics of the batch, as in training, but exchanges nothing: an
                # exchange has no second derivative, and all ranks have the same images.
                module.training, module.running_mean, module.running_var = False, None, None
        weights = weights_to_mask(self.network, data)
        self.weights = {name: weight.requires_grad_() for name, weight in weights.items()}
        self.batches, self.temperature = data.batches, temperature

    def gradient(self) -> dict[str, Tensor]:
        """Return g = dL/dw of each weight by its name; zero if the loss does not depend on the layer."""
        return self._sum(self._derivative)

    def hessian_product(self, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return H v = d<v, dL/dw>/dw of each weight by its name, without computing H.

        Source: Pearlmutter 1994, "Fast Exact Multiplication by the Hessian".
        """

        def product(loss: Tensor) -> list[Tensor]:
            gradient = self._derivative(loss, create_graph=True)
            pairs = zip(gradient, self.weights, strict=True)
            return self._derivative(torch.stack([(each * vector[name]).sum() for each, name in pairs]).sum())

        with sdpa_kernel(SDPBackend.MATH):  # the only attention kernel with a second derivative
            return self._sum(product)

    def _sum(self, of_batch: Callable[[Tensor], list[Tensor]]) -> dict[str, Tensor]:
        """Sum a linear function of the loss over the batches; each graph is freed before the next batch."""
        total = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        num_images = sum(len(labels) for _, labels in self.batches)
        with torch.enable_grad():
            for index in progress(range(len(self.batches)), "scoring weights"):
                images, labels = self.batches[index]
                try:
                    logits = logits_of(self.network, self.network(images)) / self.temperature
                    loss = nn.functional.cross_entropy(logits, labels, reduction="sum") / num_images
                except (RuntimeError, ValueError, IndexError) as error:
                    raise UserError(
                        f"{type(self.network).__name__} cannot be scored on images of shape {tuple(images.shape)} and "
                        f"{images.dtype}, with labels from {labels.min()} to {labels.max()}: {error}"
                    ) from error
                for each, part in zip(total.values(), of_batch(loss), strict=True):
                    each += part
        for name, each in total.items():
            if not each.isfinite().all():
                raise UserError(
                    f"{name!r} of {type(self.network).__name__} cannot be scored, because the loss on the "
                    "scoring batches or its gradient is infinite or NaN: use finite, normalised images, and weights "
                    "that keep activations in range (weights='kaiming_normal')"
                )
        return total

    def _derivative(self, function: Tensor, *, create_graph: bool = False) -> list[Tensor]:
        weights = list(self.weights.values())
        return list(torch.autograd.grad(function, weights, create_graph=create_graph, materialize_grads=True))
