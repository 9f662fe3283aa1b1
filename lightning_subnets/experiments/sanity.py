"""Sanity checks of a mask: does the accuracy depend on which weights it keeps, on their values, or on neither?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lightning_subnets import masking
from lightning_subnets.graph.logits import logits_of
from lightning_subnets.masking import MaskedWeight, Origin, initialization
from lightning_subnets.masking.initialization import fans
from lightning_subnets.masking.masked_weight import multipliers
from lightning_subnets.methods.fixed_mask import shuffled

# Values of the one weight that all connections share, in units of a layer's sqrt(2 / fan_in): Gaier and Ha 2019.
VALUES = (-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0)

Batch = tuple[Tensor, Tensor]  # images, normalised, and labels


def checks(
    network: nn.Module,
    training: Callable[[], Iterator[Batch]],
    evaluation: Callable[[], Iterator[Batch]],
    seeds: Sequence[int],
) -> Iterator[tuple[str, float]]:
    """Yield the accuracy of a masked network as it was found, and then with one change at a time; nothing is trained.

    - ``mask shuffled``: each weight keeps as many numbers, at other places; once for each seed.
    - ``weights drawn again``: the same mask and distribution, another seed; once for each seed.
    - ``one weight``: all weights under the mask are v sqrt(2 / fan_in), v from ``VALUES``: the weight-agnostic check.

    Each check recomputes the running statistics of norms from the training batches. The network stays unchanged.

    Source: Frankle et al. 2021, section 5, and Gaier and Ha 2019, "Weight Agnostic Neural Networks", section 3.
    """
    weights = masking.masked_weights(network)
    found = multipliers(network)
    plain = masking.unmask_(copy.deepcopy(network))

    def check(
        what: str, value: Callable[[str, MaskedWeight], Tensor], kept: dict[str, Tensor] = found
    ) -> tuple[str, float]:
        with torch.no_grad():
            for name, each in weights.items():
                effective = each.method.effective_weight(value(name, each).to(each.weight), kept[name])
                plain.get_parameter(name).copy_(effective)
        update_bn(training(), plain, device=next(plain.parameters()).device)
        return what, accuracy(plain, evaluation())

    yield check("as found", lambda _, each: each.weight)
    for seed in seeds:
        yield check("mask shuffled", lambda _, each: each.weight, shuffled(found, seed))
    for seed in seeds:
        yield check("weights drawn again", lambda name, each, seed=seed: _drawn(each, name, seed))  # type: ignore[misc]
    for value in VALUES:
        yield check(f"one weight, {value:+.1f}", lambda _, each, value=value: _constant(each, value))  # type: ignore[misc]


@torch.inference_mode()
def accuracy(network: nn.Module, batches: Iterator[Batch]) -> float:
    """Return the fraction of images whose class has the largest logit."""
    network.eval()
    hits = images = 0
    for batch, labels in batches:
        hits += int((logits_of(network, network(batch)).argmax(dim=-1) == labels).sum())
        images += len(labels)
    return hits / images


def _constant(weight: MaskedWeight, value: float) -> Tensor:
    return torch.full_like(weight.weight, value * (2.0 / fans(weight.weight.shape)[0]) ** 0.5)


def _drawn(weight: MaskedWeight, name: str, seed: int) -> Tensor:
    stream = initialization.stream_of(name)
    origin = weight.origin or Origin("kaiming_normal", 0, stream, weight.method.density)
    return origin._replace(seed=origin.seed + 1 + seed, stream=stream).draw(weight.weight.shape)
