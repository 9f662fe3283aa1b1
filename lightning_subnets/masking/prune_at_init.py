"""Masks chosen before training: what the methods share that choose them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import cached_weight, masked_network
from lightning_subnets.masking.method import Method, PruningData, ScoredLayer

Item = TypeVar("Item")


class PruneAtInit(Method):
    """A mask chosen before training; then the weights are trained under it.

    The mask of a layer stands in its ``scores``, boolean and frozen, which a checkpoint keeps: it needs neither the
    data nor the method to go on from one.
    """

    trainable = "weights"

    @abstractmethod
    def compute_masks(self, network: nn.Module, scoring: PruningData) -> dict[str, Tensor]:
        """The mask of each layer, boolean, by the layer's name.

        Args:
            network: plain, with the weights it has; it stays as it is, its norms' statistics and its mode included.
        """

    def num_kept(self, total: int) -> None:
        return None

    def initial_scores(self, shape: torch.Size, *, seed: int, layer: str) -> Tensor:
        return torch.ones(shape, dtype=torch.bool)

    def scores_for_mask(self, mask: Tensor, scores: Tensor) -> Tensor:
        return mask

    def masks(self, layers: Sequence[ScoredLayer]) -> list[Tensor]:
        return [layer.scores.detach().clone() for layer in layers if layer.scores is not None]

    def prune_(self, network: nn.Module, scoring: PruningData) -> None:
        # A score takes one pass, or a few: not worth compiling for.
        with temporarily_unmasked(network), torch.compiler.set_stance("force_eager"):
            masks = self.compute_masks(network, scoring)
        set_masks_(network, masks)


@contextmanager
def temporarily_unmasked(network: nn.Module) -> Iterator[nn.Module]:
    """A masked network as the plain one it was, for as long as the context lasts; all its weights are in."""
    scores = {layer: layer._parameters.pop("scores") for _, layer in masked_network.masked_layers(network)}
    cached_weight.invalidate_(scores)  # a copy of it as a plain one would copy them too, and they hold on to memory
    kinds = {layer: type(layer) for layer in scores}
    try:
        for layer in scores:
            layer.__class__ = layer.plain  # type: ignore[assignment]
        yield network
    finally:
        for layer, kind in kinds.items():
            layer.__class__ = kind
            layer.register_parameter("scores", scores[layer])


@torch.no_grad()
def set_masks_(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Put masks into a network whose method is a ``PruneAtInit`` one, in place.

    Raises:
        ValueError: if they are not of this network: it has other layers, or layers of other shapes.
    """
    layers = dict(masked_network.masked_layers(network))
    for name in dict.fromkeys((*layers, *masks)):
        here = tuple(layers[name].weight.shape) if name in layers else "none"
        there = tuple(masks[name].shape) if name in masks else "none"
        if here != there:
            raise UserError(f"the masks are of another network: {name} has shape {there} there and {here} here")
        if name in masks and masks[name].dtype != torch.bool:
            raise UserError(f"the mask of {name} is of {masks[name].dtype}, and a mask is boolean: mask.bool()")
    for name, layer in layers.items():
        assert layer.scores is not None
        layer.scores.copy_(masks[name])


@torch.no_grad()
def share_masks_(network: nn.Module) -> None:
    """Give all ranks the masks of rank 0, in place.

    On GPUs a gradient, and with it a mask, may be another one by the order in which numbers were added.
    """
    for _, layer in masked_network.masked_layers(network):
        if layer.scores is not None and not layer.scores.requires_grad:
            distributed.broadcast(layer.scores.view(torch.uint8), src=0)
            cached_weight.invalidate_([layer])  # of which the broadcast leaves no trace


def progress(items: Sequence[Item], what: str) -> Iterator[Item]:
    """The items, with a bar and the time left on a terminal while they are gone through."""
    # Not before Lightning: rich names Optional[float | int], for which typing then takes Lightning's Optional[int |
    # float] too, and the command line would read --trainer.limit_train_batches=1 as 1.0, all of them.
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shown = console.is_terminal and not (distributed.is_initialized() and distributed.get_rank())
    yield from track(items, what, console=console, transient=True, disable=not shown)
