"""One masked weight of a network: the parameter, its scores, and the method that masks it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking.frozen_edges import FrozenEdges
from lightning_subnets.masking.initialization import draw_weights
from lightning_subnets.masking.method import Method, ScoredWeight, as_mask, current_multipliers
from lightning_subnets.masking.tensor_version import TensorVersion


class Origin(NamedTuple):
    """The draw that a weight comes from, see ``initialization.draw_weights``."""

    distribution: str
    seed: int
    stream: str
    density: float

    def draw(self, shape: torch.Size) -> Tensor:
        """Draw the weight, float32 on the CPU."""
        return draw_weights(self.distribution, shape, seed=self.seed, stream=self.stream, density=self.density)


class CachedWeight(NamedTuple):
    """An effective weight w * m, without gradient, and what it was computed from."""

    product: Tensor
    mask: Tensor | None  # stored only if the weight is trained, because its gradient is masked too
    num_kept: int | None
    version: int  # of the product
    sources: list[TensorVersion]
    attributes: dict[str, Any]  # of the method


@dataclass(eq=False)
class MaskState:
    """Everything that a module stores about one masked weight beside parameter and scores.

    All modules that share one parameter share its state.
    """

    method: Method
    num_kept: int | None
    origin: Origin | None
    frozen_edges: FrozenEdges | None = None
    # One list for all: copy and pickle note a list before they enter it, and would nest as deep as there are tuples.
    global_group: list[MaskedWeight] = field(default_factory=list)
    drawn: Tensor | None = None  # the mask of this forward pass, if the method draws one for each
    cached: CachedWeight | None = None
    externally_refreshed: bool = False  # set by ``compile_``

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "drawn": None, "cached": None, "externally_refreshed": False}


@dataclass(eq=False, repr=False)
class MaskedWeight:
    """A view of one masked weight. Two views are equal if they show the same weight, through any of its modules.

    Attributes:
        module: an owner of the parameter.
        key: the parameter's name in this module: ``weight``, ``in_proj_weight``.
    """

    module: nn.Module
    key: str

    def __eq__(self, other: object) -> bool:
        # load_state_dict(assign=True) gives each module a parameter of its own, and they share only the state.
        return isinstance(other, MaskedWeight) and other.state is self.state and other.weight is self.weight

    def __hash__(self) -> int:
        return id(self.state)

    def __repr__(self) -> str:
        return f"MaskedWeight({self.key!r}, {tuple(self.weight.shape)}, {self.shown_density()})"

    @property
    def state(self) -> MaskState:
        if (state := states_of(self.module).get(self.key)) is None:
            raise self._no_longer_masked()
        return state

    @property
    def weight(self) -> nn.Parameter:
        """The Parameter as it was drawn or trained, without the mask."""
        return self.module._parameters[self.key]  # type: ignore[return-value]

    @property
    def scores(self) -> nn.Parameter | None:
        try:
            return self.module._parameters[scores_key(self.key)]
        except KeyError as error:
            raise self._no_longer_masked() from error

    def _no_longer_masked(self) -> UserError:
        return UserError(
            f"the {self.key} of a {type(self.module).__name__} is masked no longer: call masked_weights(network) "
            "again. If a method ranks the scores of all layers together, build and mask the network again, and unmask "
            "all of it"
        )

    @property
    def method(self) -> Method:
        return self.state.method

    @property
    def num_kept(self) -> int | None:
        """The number of weights kept; None if the method does not fix it in advance."""
        return self.state.num_kept

    @property
    def origin(self) -> Origin | None:
        """The draw of the weight; None if the network came with its weights."""
        return self.state.origin

    @property
    def frozen_edges(self) -> FrozenEdges | None:
        """The edges that are not searched, if the method has any."""
        return self.state.frozen_edges

    @property
    def global_group(self) -> Sequence[MaskedWeight]:
        """All masked weights of the network, if the mask depends on the scores of the others too."""
        return self.state.global_group

    @property
    def drawn(self) -> Tensor | None:
        return self.state.drawn

    @drawn.setter
    def drawn(self, mask: Tensor | None) -> None:
        self.state.drawn = mask

    def shown_density(self) -> str:
        """Return the fraction of weights kept as a ``repr``, which computes no mask, shows it."""
        scores = self.scores
        if scores is not None and scores.dtype == torch.bool and not scores.is_meta:  # a mask chosen before training
            return f"density={float(scores.float().mean()):.3g}"
        if self.num_kept is None or self.global_group:
            return "density by scores"
        return f"density={self.num_kept / self.weight.numel():.3g}"

    def mask(self) -> Tensor:
        """Return the current mask, boolean, shaped like the weight."""
        return as_mask(self.multiplier())

    def multiplier(self) -> Tensor:
        """Return the current m of w_eff = w * m: the mask, or int8 if the method flips or multiplies weights."""
        return current_multipliers([self])[0]


def scores_key(key: str) -> str:
    """Return the name of the scores of a parameter, in their module: ``scores`` beside ``weight``."""
    return "scores" if key == "weight" else f"{key}_scores"


def states_of(module: nn.Module) -> dict[str, MaskState]:
    """Return the states of a module's masked weights by their key; empty if none is masked."""
    states: dict[str, MaskState] = vars(module).get("_masked", {})
    return states


def is_masked(network: nn.Module) -> bool:
    """Return whether a network has a masked weight."""
    return any(states_of(module) for module in network.modules())


def masked_weights(network: nn.Module) -> dict[str, MaskedWeight]:
    """Return the masked weights by the full names of their parameters, in the network's order.

    A weight that several modules share appears once, under its first name. If they share it no longer, as after
    ``load_state_dict(assign=True)``, the weight of each appears, with its own scores.

    Raises:
        ValueError: if the network is not masked.
    """
    found: dict[MaskedWeight, str] = {}
    for name, module in network.named_modules():
        for key in states_of(module):
            found.setdefault(MaskedWeight(module, key), f"{name}.{key}" if name else key)
    if not found:
        raise UserError(f"{type(network).__name__} is not masked: call mask_(network, method, ...) first")
    return {name: weight for weight, name in found.items()}


def masked_by(network: nn.Module, method: Method) -> dict[str, MaskedWeight]:
    """Return the masked weights of this method by name; another method may mask other parts of the network."""
    # By the arguments of the method, because a copy of a network has a copy of its method.
    return {name: each for name, each in masked_weights(network).items() if repr(each.method) == repr(method)}


def scores_of(weights: Iterable[ScoredWeight]) -> list[Tensor]:
    """Return the scores of weights without gradient; all have scores."""
    return [each.scores.detach() for each in weights if each.scores is not None]


def counts_of(weights: Iterable[ScoredWeight]) -> list[int]:
    """Return how many numbers of each weight are kept; their methods fix it."""
    return [each.num_kept for each in weights if each.num_kept is not None]


def scores_names(network: nn.Module) -> set[str]:
    """Return the names of all scores in a network's state dict; empty if it is not masked."""
    return {
        f"{name}.{scores_key(key)}".removeprefix(".")
        for name, module in network.named_modules(remove_duplicate=False)
        for key in states_of(module)
    }


def masks(network: nn.Module) -> dict[str, Tensor]:
    """Return the current mask of each masked weight by its full name: boolean, shaped like the weight.

    Raises:
        ValueError: if the network is not masked, or a score on a CPU is NaN.
    """
    return {name: as_mask(multiplier) for name, multiplier in multipliers(network).items()}


def multipliers(network: nn.Module) -> dict[str, Tensor]:
    """Return the m of w_eff = w * m of each masked weight by its name: boolean, or int8, see ``Method.masks``."""
    weights = masked_weights(network)
    return dict(zip(weights, current_multipliers(list(weights.values())), strict=True))


def raw_weight(module: nn.Module, name: str = "weight") -> nn.Parameter:
    """Return the Parameter behind a masked weight, to read or to edit it; ``module.weight`` is the effective weight.

    Args:
        module: a module with a masked weight, or a plain one.
        name: of the parameter in this module.

    Raises:
        ValueError: if the module has no such parameter.
    """
    if (parameter := module._parameters.get(name)) is None:
        known = ", ".join(key for key, each in module._parameters.items() if each is not None) or "none"
        raise UserError(f"{type(module).__name__} has no parameter {name!r}; it has: {known}")
    return parameter


def check_shapes(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], what: str) -> None:
    """Check that two states have the same names and shapes; ``what`` begins the error, such as "the checkpoint is".

    Raises:
        ValueError: naming the first difference.
    """
    for key in dict.fromkeys((*ours, *theirs)):
        here, there = (tuple(state[key].shape) if key in state else "none" for state in (ours, theirs))
        if here != there:
            raise UserError(f"{what} of another network: {key} has shape {there} there and {here} here")
