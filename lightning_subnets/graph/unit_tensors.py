"""Tensors that hold, for each element of a tensor of the network, the number of its unit.

Such a tensor is expanded along dimensions where units do not change, such as the positions of a feature map, so large
maps take no memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_subnets.graph.unit_graph import NOTHING, Edges, Merge


class GraphBuilder:
    """Number the units of a network, merge units where operations join them, and collect the steps of the graph."""

    def __init__(self) -> None:
        self.num_units = 0
        self.steps: list[Edges | Merge] = []

    def new(self, count: int) -> Tensor:
        """Return the numbers of new units, (count,)."""
        self.num_units += count
        return torch.arange(self.num_units - count, self.num_units)

    def layer(self, name: str, sources: Tensor, num_targets: int, groups: int, transposed: bool) -> Tensor:
        """Add a layer's edges from these units to ``num_targets`` new ones, and return these."""
        targets = self.new(num_targets)
        self.steps.append(Edges(name, sources.numpy(), targets.numpy(), groups, transposed))
        return targets

    def merged(self, operands: Iterable[Tensor]) -> Tensor:
        """Merge each distinct pair of units that meet into a new unit; NOTHING and a unit give the unit."""
        result, *others = (compact(units) for units in operands)
        for other in others:
            shape = torch.broadcast_shapes(result.shape, other.shape)  # type: ignore[no-untyped-call]
            first, second = result.expand(shape), other.expand(shape)
            meeting = (first != second) & (first != NOTHING) & (second != NOTHING)
            result = torch.where(first == NOTHING, second, first)
            if meeting.any():
                pairs, which = _distinct_columns(torch.stack([first[meeting], second[meeting]]))
                new = self.new(pairs.shape[1])
                self._merge(pairs.flatten(), new.repeat(2))
                result = result.masked_scatter(meeting, new[which])
        return result

    def merged_along(self, units: Tensor, dims: Sequence[int]) -> Tensor:
        """Reduce these dimensions to size 1: where units differ along them, merge the units into a new one."""
        units, dims = compact(units), tuple(dims)
        if not dims:
            return units
        largest = units.amax(dims, keepdim=True)
        smallest = torch.where(units == NOTHING, largest, units).amin(dims, keepdim=True)
        several = largest != smallest
        if several.any():
            largest = largest.masked_scatter(several, self.new(int(several.sum())))
            meeting = several & (units != NOTHING)
            pairs, _ = _distinct_columns(torch.stack([units[meeting], largest.expand(units.shape)[meeting]]))
            self._merge(pairs[0], pairs[1])
        return largest

    def reduced(self, units: Tensor, dims: Any) -> Tensor:
        """Merge units along these dimensions, all by default, and keep the size of the others."""
        dims = {dim % units.dim() for dim in ([dims] if isinstance(dims, int) else dims or range(units.dim()))}
        shape = [1 if dim in dims else size for dim, size in enumerate(units.shape)]
        return self.merged_along(units, sorted(dims)).expand(shape)

    def einsum(self, equation: str, operands: Sequence[Tensor]) -> Tensor:
        """Merge the units of a sum of products, broadcast where they do not change.

        The sum merges the units of each factor, and the product merges the factors.
        """
        subscripts, arrow, letters = equation.replace(" ", "").partition("->")
        if not arrow:  # as torch.einsum: the letters that occur once, in the order of the alphabet
            letters = "".join(sorted(each for each in {*subscripts} - {","} if subscripts.count(each) == 1))
        factors = []
        for own, units in zip(subscripts.split(","), operands, strict=True):
            left = self.merged_along(units, [dim for dim, letter in enumerate(own) if letter not in letters])
            order = sorted(range(left.dim()), key=lambda dim, own=own: letters.find(own[dim]))  # type: ignore[misc]
            sizes = [left.shape[own.index(letter)] if letter in own else 1 for letter in letters]
            factors.append(left.permute(order).reshape(sizes))
        return self.merged(factors)

    def product(self, first: Tensor, second: Tensor) -> Tensor:
        """Merge the units of a product of matrices, which may have leading dimensions, as ``einsum`` does."""
        return self.merged([self.merged_along(first, [-1]), self.merged_along(second, [-2])])

    def _merge(self, sources: Tensor, targets: Tensor) -> None:
        self.steps.append(Merge(sources.numpy(), targets.numpy()))


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors in the value of a node, which may be a list."""
    several = value if isinstance(value, list | tuple) else [value]
    return [each for each in several if isinstance(each, Tensor)]


def constant(value: Tensor) -> Tensor:
    """Return the units of a constant: NOTHING for each element."""
    return torch.full((), NOTHING).expand(value.shape)


def is_constant(units: Tensor) -> bool:
    """Return whether no element belongs to a unit."""
    return not bool((compact(units) != NOTHING).any())


def units_of_results(units: Tensor, value: Any) -> Any:
    """Give an operation's first result these units, and its other results none."""
    if isinstance(value, Tensor):
        return units.expand(value.shape)
    return (units.expand(value[0].shape), *map(constant, value[1:]))


def spread_along(units: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    """Return a tensor of this shape whose units, (n,), change along one dimension."""
    return units.view([-1 if each == dim else 1 for each in range(len(shape))]).expand(*shape)


def compact(units: Tensor) -> Tensor:
    """Give expanded dimensions the size 1."""
    for dim in range(units.dim()):
        if units.stride(dim) == 0:
            units = units.narrow(dim, 0, 1)
    return units


def tidy(units: Tensor) -> Tensor:
    """Expand every dimension along which units do not change."""
    for dim in range(units.dim()):
        small = compact(units)
        if (small == small.narrow(dim, 0, 1)).all():
            units = units.narrow(dim, 0, 1).expand(units.shape)
    return units


def _distinct_columns(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct columns of two rows of units, and for each column the index of its distinct one."""
    base = int(rows.max()) + 1
    numbers, which = torch.unique(rows[0] * base + rows[1], return_inverse=True)  # faster than by columns
    return torch.stack([numbers // base, numbers % base]), which
