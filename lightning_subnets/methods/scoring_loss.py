"""The loss by which weights are scored before training, its gradient and its Hessian."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_subnets.errors import UserError
from lightning_subnets.masking import prune_at_init
from lightning_subnets.masking.maskable import maskable_layers


def check_samples_per_class(samples_per_class: int) -> int:
    """The number itself.

    Raises:
        ValueError: if it is below 1.
    """
    if samples_per_class < 1:
        raise UserError(f"samples_per_class = {samples_per_class} is below 1: weights are scored on images, 10 a class")
    return samples_per_class


class ScoringLoss:
    """The mean cross-entropy over all scoring images, as a function of the weights of the layers to mask.

    L(w) = 1/N sum_n CE(z_n(w) / T, y_n), N images of all batches together, z logits, T the temperature. It is worked
    out batch by batch: memory is that of one. Norms take the statistics of the batch, as in training; dropout and
    stochastic depth are off, so that nothing but weights and images counts. The network itself stays as it is, for all
    this is done with a copy.

    Args:
        network: a plain one.
        batches: images (n, c, h, w) and labels (n,), on the network's device.
        temperature: T.
    """

    def __init__(
        self, network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], *, temperature: float = 1.0
    ) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.training = True  # of this module alone: timm has norms with dropout in them
        self.weights = {name: layer.weight.requires_grad_() for name, layer in maskable_layers(self.network).items()}
        self.batches, self.temperature = batches, temperature

    def gradient(self) -> dict[str, Tensor]:
        """g = dL/dw of each layer, by its name; zero where a layer has no part in the loss.

        Raises:
            ValueError: if it is not finite.
        """
        return self._sum(lambda loss: self._derivative(loss))

    def hessian_product(self, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """H v of each layer, by its name: d<v, dL/dw>/dw, without H.

        Args:
            vector: v, a tensor like the weight for each layer, by its name.

        Raises:
            ValueError: if it is not finite.
        Source: Pearlmutter 1994, "Fast Exact Multiplication by the Hessian".
        """

        def product(loss: Tensor) -> list[Tensor]:
            gradient = self._derivative(loss, create_graph=True)
            pairs = zip(gradient, self.weights, strict=True)
            return self._derivative(torch.stack([(each * vector[name]).sum() for each, name in pairs]).sum())

        # Of attention, only the plain formula can be derived twice.
        with sdpa_kernel(SDPBackend.MATH):
            return self._sum(product)

    def _sum(self, share: Callable[[Tensor], list[Tensor]]) -> dict[str, Tensor]:
        """The sum over batches of a linear function of the loss."""
        total = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        with torch.enable_grad():
            for loss in self._losses():
                for each, part in zip(total.values(), share(loss), strict=True):
                    each += part
        for name, each in total.items():
            if not each.isfinite().all():
                raise UserError(
                    f"the layer {name!r} of {type(self.network).__name__} cannot be scored, for the loss on the "
                    "scoring batches or its gradient is infinite or NaN: see that the images are finite and "
                    "normalised, and draw weights that keep activations in range (weights='kaiming_normal')"
                )
        return total

    def _losses(self) -> Iterator[Tensor]:
        """What each batch adds to the loss; each graph can be freed before the next."""
        images_in_all = sum(len(labels) for _, labels in self.batches)
        for index in prune_at_init.progress(range(len(self.batches)), "scoring weights"):
            images, labels = self.batches[index]
            logits = self.network(images) / self.temperature
            yield nn.functional.cross_entropy(logits, labels, reduction="sum") / images_in_all

    def _derivative(self, function: Tensor, *, create_graph: bool = False) -> list[Tensor]:
        weights = list(self.weights.values())
        return list(torch.autograd.grad(function, weights, create_graph=create_graph, materialize_grads=True))
