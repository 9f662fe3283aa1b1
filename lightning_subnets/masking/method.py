"""The interface of a method: what it trains, a weight's first scores, the masks they give, and their gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import allocation
from lightning_subnets.masking.frozen_edges import FrozenEdges


class ScoredWeight(Protocol):
    """The part of a masked weight that a method reads.

    Attributes:
        weight: the Parameter, w.
        scores: s, in the shape of w, or None if the method has none.
        method: which the weight is masked by.
        num_kept: k, the number of weights to keep, or None if the method does not fix it. ``GradualDensity`` sets it
            during steps; if all weights are ranked together, to the k of all.
        frozen_edges: the edges for which the seed decides, if the method has any.
        global_group: all masked weights of the network, if the method ranks them together; empty otherwise.
    """

    drawn: Tensor | None  # the mask of this forward pass, for a method that draws one for each

    @property
    def weight(self) -> nn.Parameter: ...

    @property
    def scores(self) -> nn.Parameter | None: ...

    @property
    def method(self) -> Method: ...

    @property
    def num_kept(self) -> int | None: ...

    @property
    def frozen_edges(self) -> FrozenEdges | None: ...

    @property
    def global_group(self) -> Sequence[ScoredWeight]: ...


class PruningData(NamedTuple):
    """The data that a method may use to choose masks before training.

    Attributes:
        batches: images, float (samples, channels, height, width) and normalised, and labels, int64 (samples,).
        input_shape: of one image, (channels, height, width).
        seed: of the weights, and of everything that the method draws to choose the masks.
        read_masks: reads the masks of a network from a file, for ``FixedMask``.
        weights: the names of the weights to mask; all weights by default.
    """

    batches: Sequence[tuple[Tensor, Tensor]] = ()
    input_shape: tuple[int, ...] | None = None
    seed: int = 0
    read_masks: Callable[[str, nn.Module], Mapping[str, Tensor]] | None = None
    weights: tuple[str, ...] = ()

    def checked_for(self, method: Method) -> PruningData:
        """Return these data, with the input shape of the batches by default, if they have what the method requires.

        Raises:
            ValueError: if the method needs batches or an input shape and these data lack them, or a batch is not a pair
                of images, float, and labels, int64.
        """
        if method.requires is None or (method.requires == "input_shape" and self.input_shape):
            return self
        if not self.batches:
            call = "batches=[(images, labels)]" if method.requires == "batches" else "input_shape=(3, 224, 224)"
            raise UserError(f"{type(method).__name__} needs {method.requires} to choose its masks: mask_(..., {call})")
        for batch in self.batches:
            tensors = isinstance(batch, tuple | list) and [isinstance(each, Tensor) for each in batch] == [True, True]
            if not tensors or not batch[0].is_floating_point() or batch[1].dtype != torch.int64:
                raise UserError(
                    "batches are pairs of images, float and normalised, and labels, int64: batches=[(images, labels)]"
                )
        return self._replace(input_shape=self.input_shape or tuple(self.batches[0][0].shape[1:]))


class Method(ABC):
    """A way to find a subnetwork: which weights a module computes with, and what training changes.

    A module computes with w_eff = w * m. A method returns m in the shape of w: a boolean mask, or int8 if it flips or
    multiplies weights. Code that has both calls m the multiplier, and the boolean m != 0 the mask, see ``as_mask``.

    A subclass sets ``density`` and ``trainable``, and implements ``initial_scores`` and ``masks``. If it trains scores,
    it also implements ``score_gradient``. Each method of this package is in a file of ``lightning_subnets.methods``;
    with ``scores_for_mask``, its training can continue from a ``.subnet`` file.

    Attributes:
        density: fraction of the weights kept.
        trainable: the parameters that training changes.
        requires: the field of ``PruningData`` that the method needs to choose its masks before training.
        samples_per_class: training images of each class, if the method requires batches.
        by_class: whether those images are sorted by class, in an even number of batches.
        cacheable: whether w_eff changes with weight, scores and attributes alone. If not, override ``uncached_weight``.
        ranks_by_magnitude: whether weights are ranked by |w|, which needs weights of different magnitudes.
        rerandomizes: whether frozen weights are re-drawn during training, so that checkpoints must store them.
        draws_masks: whether each forward pass of the network draws other masks, see ``ScoredWeight.drawn``.
        num_eval_passes: forward passes that an evaluation averages, if each pass draws other masks.
        flags_in_scores: whether some values of the scores are flags, which have no mean.
        global_ranking: whether the mask of a weight depends on the scores of the other weights too.
        frozen: share of the weights that are not searched. A method with such edges reads ``frozen_edges`` of a weight.
    """

    density: float
    trainable: ClassVar[Literal["scores", "weights", "last layer"]]
    requires: ClassVar[Literal["batches", "input_shape"] | None] = None
    samples_per_class: int
    by_class: ClassVar[bool] = False
    cacheable: ClassVar[bool] = True
    ranks_by_magnitude: ClassVar[bool] = False
    rerandomizes: ClassVar[bool] = False
    draws_masks: ClassVar[bool] = False
    flags_in_scores: ClassVar[bool] = False
    frozen: float = 0.0

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, and take a scalar of NumPy or torch as the number that checkpoints and files can hold."""
        if type(value) is Tensor and value.dim() == 0:  # of torch.linspace
            value = value.item()
        super().__setattr__(name, plain_number(value))

    @property
    def num_eval_passes(self) -> int:
        return 1

    @property
    def global_ranking(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.identity().items())})"

    def identity(self) -> dict[str, Any]:
        """Return the arguments of the method's constructor, as plain values for a checkpoint.

        By default, these are all attributes. If training changes one of them that the constructor sets, such as a
        temperature, checkpoints hold its new value beside the first one, and restore it. They do so only for methods
        that do not override this.
        """
        return vars(self)

    def too_short(self, steps: float) -> str | None:
        """Return why a run of so many optimizer steps, or without end, misses the density; None if it does not."""
        return None

    def num_kept(self, total: int) -> int | None:
        """Return how many of a weight's numbers are kept, or None if the method does not fix the number in advance."""
        return allocation.num_kept(total, self.density)

    def counts(self, shapes: Mapping[str, torch.Size]) -> Mapping[str, int | None]:
        """Return how many numbers of each weight are kept, by name; by default, ``num_kept`` of each."""
        return {name: self.num_kept(shape.numel()) for name, shape in shapes.items()}

    def frozen_edges(self, shape: torch.Size, density: float, *, seed: int, stream: str) -> FrozenEdges | None:
        """Return the edges of a weight that are not searched, or None if there are none.

        Of n numbers, with f = ``frozen`` and d = ``density``, int(f d n) are always kept and int(f (1 - d) n) never.
        """
        if not self.frozen:
            return None
        always, never = (int(self.frozen * share * shape.numel()) for share in (density, 1 - density))
        return FrozenEdges.draw(shape, always=always, never=never, seed=seed, stream=stream)

    @abstractmethod
    def initial_scores(self, shape: torch.Size, *, seed: int, stream: str) -> Tensor | None:
        """Return a weight's first scores, in its shape, on the CPU, or None for a method without scores.

        They are a function of ``seed`` and ``stream``, see ``initialization.stream_of``.
        """

    def scores_for_mask(self, mask: Tensor, scores: Tensor) -> Tensor:
        """Return scores that give this mask, to continue from a mask alone.

        Args:
            mask: the m of a weight.
            scores: the first scores, in the same shape.

        Raises:
            NotImplementedError: if the method cannot continue from a mask alone.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot continue from a mask alone")

    @abstractmethod
    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        """Return the m of each of these weights, in their order.

        They are a pure function of the values, scores, ``frozen_edges`` and ``num_kept`` of the weights, and of the
        attributes of this method.
        """

    def prune_(self, network: nn.Module, data: PruningData) -> None:  # noqa: B027
        """Choose the masks of a masked network before training; by default, leave the masks to training."""

    def after_step_(self, network: nn.Module, step: int, images: int | None) -> None:  # noqa: B027
        """Change a masked network after an optimizer step; by default, leave it unchanged.

        Args:
            network: masked.
            step: the number of steps done.
            images: the number of images in a step, over all processes; None if it is unknown.
        """

    def effective_weight(self, weight: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
        """Return w_eff = w * m, the weight that a module computes with; m is bool, uint8 or int8."""
        return torch.mul(weight, mask, out=out)

    def uncached_weight(self, weight: ScoredWeight) -> Tensor:
        """Return w_eff with its gradient; override this if ``cacheable`` is false."""
        raise NotImplementedError(f"{type(self).__name__} is not cacheable: override uncached_weight")

    def weight_gradient(self, gradient: Tensor, mask: Tensor) -> Tensor:
        """Return dL/dw = m * dL/dw_eff, straight through the choice of the mask; all have one shape."""
        return gradient * mask

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        """Return dL/ds from g = dL/dw_eff; g, w and s have one shape. ``EdgePopup``: sign(s) * w * g."""
        raise NotImplementedError(f"{type(self).__name__} does not train scores")


def plain_number(value: Any) -> Any:
    """Return a NumPy scalar as a Python number, and any other value unchanged."""
    if isinstance(value, np.floating):
        return float(value)
    return value.item() if isinstance(value, np.generic) else value


def is_plain(value: object) -> bool:
    """Return whether a checkpoint and a summary can hold a value unchanged: numbers, texts, lists and dicts of them."""
    if type(value) in (list, tuple):
        return all(map(is_plain, value))  # type: ignore[call-overload]
    if type(value) is dict:
        return all(is_plain(each) for each in (*value, *value.values())) and tuple not in map(type, value)
    # No subclasses, because a checkpoint would name them. No NaN, because it equals nothing.
    return type(value) in (str, int, float, bool, type(None)) and value == value


def check_identity(name: str, identity: Mapping[str, Any]) -> None:
    """Check that checkpoints and files can hold the ``identity`` of the method of this name.

    Raises:
        ValueError: naming the first argument that they cannot hold.
    """
    for key, value in identity.items():
        if not is_plain(value):
            raise UserError(
                f"{name}.identity() has {key} = {value!r:.200}, which no checkpoint and no .subnet file can hold: "
                "override it to return numbers, strings, and lists and dicts of them"
            )


def current_multipliers(weights: Sequence[ScoredWeight]) -> list[Tensor]:
    """Return the m of w_eff = w * m for some weights, see ``Method.masks``.

    The weights may have several methods, and be on several devices or of several networks.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, each in enumerate(weights):
        groups.setdefault(tuple(each.global_group[:1]) or (id(each.method), each.weight.device), []).append(index)
    found: dict[int, Tensor] = {}
    for indices in groups.values():
        found.update(zip(indices, _of_one_group([weights[index] for index in indices]), strict=True))
    return [found[index] for index in range(len(weights))]


def _of_one_group(weights: list[ScoredWeight]) -> list[Tensor]:
    """Return the multipliers of weights of one method; the mask of a weight may depend on its whole global group."""
    method, group = weights[0].method, weights[0].global_group
    if not group:
        return _checked_masks(method, weights)
    # By hash, because layers that no longer share a weight still share its place in the ranking.
    found = dict(zip(map(hash, group), _checked_masks(method, group), strict=True))
    return [found[hash(weight)] for weight in weights]


def _checked_masks(method: Method, weights: Sequence[ScoredWeight]) -> list[Tensor]:
    """Return the method's masks, of which a ``.subnet`` file can hold no others, or raise ``UserError``."""
    for each, mask in zip(weights, masks := method.masks(weights), strict=True):
        if mask.dtype not in (torch.bool, torch.int8) or mask.shape != each.weight.shape:
            raise UserError(
                f"{type(method).__name__}.masks() returns a mask of {mask.dtype} and shape {tuple(mask.shape)} for "
                f"{each!r}: return torch.bool, such as scores > 0, or torch.int8, in the shape of the weight"
            )
    return masks


def as_mask(multiplier: Tensor) -> Tensor:
    """Return the boolean mask of a multiplier: True where it is not 0."""
    return multiplier if multiplier.dtype == torch.bool else multiplier != 0
