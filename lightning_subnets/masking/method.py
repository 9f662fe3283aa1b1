"""What a method is: one small class in one file of ``methods/``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import allocation

if TYPE_CHECKING:
    from lightning_subnets.masking.masked_network import MaskedLayer


class Scoring(NamedTuple):
    """What masks can be chosen from before training, beside the network.

    Attributes:
        batches: images, float (samples, channels, height, width) and normalised, and labels, int64 (samples,).
        input_shape: of one image, (channels, height, width).
        seed: of the weights, and of what a choice draws.
    """

    batches: Sequence[tuple[Tensor, Tensor]] = ()
    input_shape: tuple[int, ...] | None = None
    seed: int = 0

    def checked_for(self, method: Method) -> Scoring:
        """The same, with the shape of the batches where none is given.

        Raises:
            ValueError: if something is missing that the method needs, or is not as it has to be.
        """
        if method.needs == "input_shape" and self.input_shape:
            return self
        if not self.batches:
            call = "batches=[(images, labels)]" if method.needs == "batches" else "input_shape=(3, 224, 224)"
            raise UserError(f"{type(method).__name__} chooses its masks from {method.needs}: mask_(..., {call})")
        for batch in self.batches:
            tensors = isinstance(batch, tuple | list) and [isinstance(each, Tensor) for each in batch] == [True, True]
            if not tensors or not batch[0].is_floating_point() or batch[1].dtype != torch.int64:
                raise UserError(
                    "batches are pairs of images, float and normalised, and labels, int64: batches=[(images, labels)]"
                )
        return self._replace(input_shape=self.input_shape or tuple(self.batches[0][0].shape[1:]))


class Method(ABC):
    """How a subnetwork is found: what is trained, where scores start, the masks they give, and their gradient."""

    trains: ClassVar[Literal["scores", "weights", "last layer"]]
    needs: ClassVar[Literal["batches", "input_shape"] | None] = None  # of ``Scoring``, to choose masks before training
    samples_per_class: int  # how many training images of each class, where it needs batches
    by_class: ClassVar[bool] = False  # sort these images by class, and make an even number of batches
    made_before: ClassVar[bool] = True  # w_eff is kept from one change to the next; if not, override masked_weight
    by_magnitude: ClassVar[bool] = False  # ranks weights by |w|, which must not all be the same then
    redraws: ClassVar[bool] = False  # frozen weights change all the same, and the seed alone does not give them
    samples: int = 1  # forward passes that an evaluation is the mean of, for masks drawn anew in each
    density: float

    @property
    def across_layers(self) -> bool:
        """Whether the mask of a layer depends on the scores of the others too."""
        return False

    def identity(self) -> dict[str, Any]:
        """The arguments it was made with, by which a checkpoint knows it: plain values."""
        return vars(self)

    def num_kept(self, total: int) -> int | None:
        """How many of a layer's weights are kept, for a method that fixes it beforehand."""
        return allocation.num_kept(total, self.density)

    @abstractmethod
    def initial_scores(self, shape: torch.Size, *, seed: int, layer: str) -> Tensor | None:
        """A layer's first scores, on the CPU, or None for a method without scores."""

    def scores_of(self, mask: Tensor, scores: Tensor) -> Tensor:
        """Scores that give this mask, from those that a layer begins with: to go on from a mask alone."""
        raise NotImplementedError(f"{type(self).__name__} cannot go on from a mask alone")

    @abstractmethod
    def masks(self, layers: Sequence[MaskedLayer]) -> list[Tensor]:
        """The masks of these layers, boolean: a pure function of their weights, scores and numbers kept."""

    def choose_(self, network: nn.Module, scoring: Scoring) -> None:  # noqa: B027
        """Choose the masks of a masked network as it stands; nothing, for a method that finds them by training."""

    def after_step_(self, network: nn.Module, step: int, images: int | None) -> None:  # noqa: B027
        """Change a masked network after each optimizer step; by default, leave it as it is.

        Args:
            network: masked.
            step: the number of optimizer steps done.
            images: the number of images in a step, over all processes; None if the data do not say.
        """

    def product(self, weight: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
        """w_eff, the weight that a layer computes with; of a mask of bool or uint8, into ``out`` in its precision."""
        return torch.mul(weight, mask, out=out)

    def masked_weight(self, layer: MaskedLayer) -> Tensor:
        """w_eff with its gradient, for a method whose ``made_before`` is false."""
        raise NotImplementedError(f"{type(self).__name__} has its masked weights made before")

    def weight_gradient(self, gradient: Tensor, mask: Tensor) -> Tensor:
        """dL/dw, from dL/dw_eff: what the mask lets through."""
        return gradient * mask

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        """dL/ds, from dL/dw_eff."""
        raise NotImplementedError(f"{type(self).__name__} does not train scores")


def masks(layers: Sequence[MaskedLayer]) -> list[Tensor]:
    """The present masks of some layers of one network, boolean, each shaped like its ``weight``."""
    peers = layers[0].peers
    if not peers:
        return layers[0].method.masks(layers)
    of_all = dict(zip(peers, layers[0].method.masks(peers), strict=True))
    return [of_all[layer] for layer in layers]
