"""Which weights of a network are masked, at which density, and what they are drawn from."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

from torch import nn

from lightning_subnets.errors import UserError, listed, unknown
from lightning_subnets.masking import allocation
from lightning_subnets.masking.maskable import NORMS, Weight, find_weights, matching, padding_row
from lightning_subnets.masking.masked_weight import is_masked
from lightning_subnets.masking.method import Method, plain_number
from lightning_subnets.masking.other_parameters import may_be_weight

Norms = Literal["frozen", "trained"]


class Choice(NamedTuple):
    """The weights to mask, how many of each to keep, and whether norms are trained.

    Attributes:
        keep_dense: patterns of weights that stay dense: ``conv1``, ``head.*``. A pattern is read as ``fnmatch`` does
            and matches the name of a weight or of its module.
        also_mask: patterns of further parameters to mask, such as embeddings.
        densities: fraction of weights kept by pattern, in place of the method's density; the last match counts.
        norms: whether the scales and shifts of norms are trained beside the scores.
    """

    keep_dense: tuple[str, ...] = ()
    also_mask: tuple[str, ...] = ()
    densities: Mapping[str, float] = {}
    norms: Norms = "frozen"

    @classmethod
    def of(
        cls,
        keep_dense: Iterable[str] | None,
        also_mask: Iterable[str] | None,
        densities: Mapping[str, float] | None,
        norms: Norms,
    ) -> Choice:
        """Return a choice from the arguments of ``mask_``, None for those that are not given."""
        for argument, patterns in (("keep_dense", keep_dense), ("also_mask", also_mask)):
            if isinstance(patterns, str):
                raise UserError(f"{argument} is the string {patterns!r}: give a list of patterns, [{patterns!r}]")
        if norms not in get_args(Norms):
            raise unknown("value of norms", norms, get_args(Norms))
        numbers = {pattern: plain_number(density) for pattern, density in (densities or {}).items()}
        return cls(tuple(keep_dense or ()), tuple(also_mask or ()), numbers, norms)

    def identity(self) -> dict[str, Any]:
        """Return the patterns that are set, as plain values for a checkpoint."""
        trained = self.norms if self.norms == "trained" else ""
        values = (list(self.keep_dense), list(self.also_mask), dict(self.densities), trained)
        return {name: value for name, value in zip(self._fields, values, strict=True) if value}


class Plan(NamedTuple):
    """What ``mask_`` does with each weight."""

    masked: dict[str, Weight]
    dense: dict[str, Weight]
    distribution: str | None
    num_kept: dict[str, int | None]  # of the masked weights
    densities: dict[str, float]  # of the masked weights


def plan(network: nn.Module, method: Method, weights: str | None, choice: Choice) -> Plan:
    """Return what to do with each weight, after the checks that need no data."""
    distribution = distribution_for(method, weights)
    if is_masked(network):
        raise UserError(f"{type(network).__name__} is masked already: call unmask_(network) first")
    if choice.norms == "trained":
        _check_norms(network, method)
    masked, dense, _ = find_weights(network, keep_dense=choice.keep_dense, also_mask=choice.also_mask)
    if distribution is not None:
        _check_padding(masked)
    num_kept, densities = _num_kept(method, masked, choice)
    _check_distribution(method, distribution, min(densities.values()))
    return Plan(masked, dense, distribution, num_kept, densities)


def warn_of_matrices(network: nn.Module, choice: Choice) -> None:
    """Name the trainable matrices that stay without a mask only because they are not named like weights."""
    others = find_weights(network, keep_dense=choice.keep_dense, also_mask=choice.also_mask).others
    matrices = [name for name, each in others.items() if each.parameter.requires_grad and may_be_weight(name, each)]
    if matrices:
        warnings.warn(
            f"{listed(matrices)} of {type(network).__name__} stay without a mask, because weights are named weight, "
            "*_weight or weight_*: to mask one of them, name it in also_mask",
            stacklevel=1,
        )


def distribution_for(method: Method, weights: str | None) -> str | None:
    """Return the distribution to draw weights from, or None to keep the weights; ``auto`` depends on the method.

    Raises:
        ValueError: if the method is a class and not an instance, or, with swapped arguments, the network.
    """
    if not isinstance(method, Method):
        shown = repr(method) if isinstance(method, type) else f"a {type(method).__name__}"  # a network is many lines
        raise UserError(
            f"{shown} is not a method: pass the network first, and then an instance: EdgePopup(density=0.3)"
        )
    if weights == "auto":
        return "signed_constant" if method.trainable == "scores" else None
    return weights


def _check_distribution(method: Method, distribution: str | None, lowest_density: float) -> None:
    if distribution is None:
        if method.rerandomizes:
            raise UserError(f"{type(method).__name__} re-draws weights: name a distribution, weights='kaiming_normal'")
        return
    if method.ranks_by_magnitude and lowest_density < 1 and distribution.endswith("signed_constant"):
        raise UserError(
            f"{type(method).__name__} keeps the largest weights, but all weights of {distribution} have one magnitude: "
            "use weights='kaiming_normal'"
        )


def _check_padding(masked: Mapping[str, Weight]) -> None:
    for name, each in masked.items():
        for module, _ in each.owners:
            if (row := padding_row(module)) is not None:
                raise UserError(
                    f"{name!r} belongs to an {type(module).__name__} with padding_idx = {row}, and a row that is drawn "
                    f"would no longer be 0: keep_dense=[{name!r}], or build it without padding_idx"
                )


def _check_norms(network: nn.Module, method: Method) -> None:
    if method.trainable != "scores":
        raise UserError(
            f"norms = 'trained' is for methods that train scores, and {type(method).__name__} does not: leave it out"
        )
    if not any(True for _ in norm_parameters(network)):
        raise UserError(
            f"norms = 'trained', and {type(network).__name__} has no norms with scales and shifts: leave it out, or "
            "build the network with norms"
        )


def norm_parameters(network: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the scales and shifts of a network's norms."""
    for module in network.modules():
        if isinstance(module, NORMS):
            yield from module.parameters(recurse=False)


def _num_kept(
    method: Method, chosen: Mapping[str, Weight], choice: Choice
) -> tuple[dict[str, int | None], dict[str, float]]:
    """Return the number kept and the density of each weight to mask."""
    sizes = {name: each.parameter.numel() for name, each in chosen.items()}
    counts: dict[str, int | None] = {**method.counts({name: each.parameter.shape for name, each in chosen.items()})}
    densities = dict.fromkeys(sizes, method.density)
    for name, size in sizes.items():
        # An allocation may give this weight another number than the method's density does.
        if (count := counts[name]) != method.num_kept(size) and count is not None:
            densities[name] = count / size
    if choice.densities and (None in counts.values() or not method.cacheable):
        raise UserError(
            f"densities: {type(method).__name__} decides itself how many numbers of each weight it keeps. Take a "
            "method such as EdgePopup, or keep_dense for weights that are not masked"
        )
    for pattern, density in choice.densities.items():
        for name in matching([pattern], chosen, "densities"):
            densities[name] = allocation.check_density(density)
            counts[name] = allocation.num_kept(sizes[name], density)
    return counts, densities
