"""Random walks along a network's weights, many at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_subnets.graph.unit_graph import NOTHING, Edges, Float64, Mask, Merge, UnitGraph, Units
from lightning_subnets.masking import initialization

END = -1  # stands for a step if a walk ends
Float32 = NDArray[np.float32]
Integers = NDArray[np.int64]


class Visited(NamedTuple):
    """The weights that walks passed, in no order, repeated for each pass."""

    weights: Integers  # indices into the concatenated weights of all layers
    times: Integers  # of each pass; smaller for an earlier walk, and for an earlier step of the same walk


class RandomWalks:
    """Walks that alternate between forward, from inputs to outputs, and backward, from outputs to inputs.

    Walk 0 goes forward from the first input, walk 1 backward from the first output, walk 2 forward from the second
    input, and so on, round-robin. In a layer, a walk draws one of the weights that leave its unit (backward: enter it)
    with probability |w| / sum |w|: first a unit by the sum over its kernel, then a position in the kernel. If several
    steps begin at a unit, such as a block and its shortcut, each has the same probability, whatever its weights. The
    same holds backward for units that were added or multiplied. Walks avoid steps from which no end can be reached.

    The random numbers of a walk are a function of the seed, the walk's number and the step, so the walk does not depend
    on how many run together. Sums have a fixed order, so the walk is the same on every machine.

    Args:
        graph: of the network.
        strengths: |w|, or other numbers >= 0, (out, in / groups, positions of the kernel), of each layer of the graph,
            in the layout of its weight, and in the order in which ``Visited`` numbers the weights.
        seed: any integer.
        whole_kernels: whether a walk visits the whole kernel of each weight.
    """

    def __init__(
        self, graph: UnitGraph, strengths: Mapping[str, Float32], seed: int, *, whole_kernels: bool = False
    ) -> None:
        kernels = {}
        first = 0
        for name, strength in strengths.items():
            kernels[name] = _Kernels(strength, first, whole_kernels)
            first += strength.size
        totals = {name: kernel.totals for name, kernel in kernels.items()}
        reached = np.append(graph.log_paths(totals) > -np.inf, False)  # NOTHING is not
        leading = np.append(graph.log_paths(totals, backward=True) > -np.inf, False)
        self.num_reachable: dict[str, int] = _num_reachable(graph, kernels, reached, leading)
        self.directions = (
            _Direction(graph, kernels, leading, seed, backward=False),
            _Direction(graph, kernels, reached, seed, backward=True),
        )

    def visited(self, first: int, count: int) -> Visited:
        """Return the weights that ``count`` walks pass, starting with walk ``first``; both numbers are even."""
        with ThreadPoolExecutor(len(self.directions)) as pool:
            both = pool.map(lambda direction: direction.visited(first // 2, count // 2), self.directions)
            return Visited(*(np.concatenate(each) for each in zip(*both, strict=True)))


class _Kernels:
    """The weights of a layer, by connection (output, input) and position in the kernel."""

    def __init__(self, strengths: Float32, first: int, whole: bool) -> None:
        self.positions = strengths.shape[2]
        self.strengths = strengths.reshape(-1, self.positions)
        self.first, self.whole = first, whole
        # Add position by position: NumPy's own order of summation, and so the rounding, may vary.
        self.totals: Float64 = np.zeros(strengths.shape[:2])
        for position in range(self.positions):
            self.totals += strengths[:, :, position]

    def weights(self, connections: Integers, uniform: Float64) -> Integers:
        """Return one weight of each connection, (n, 1), or all of its weights, (n, positions)."""
        start: Integers = (self.first + connections * self.positions)[:, None]
        if self.whole or self.positions == 1:
            return start + np.arange(self.positions)
        sums = self.strengths[connections].cumsum(axis=1, dtype=np.float64)
        passed = sums <= _below(uniform * sums[:, -1], sums[:, -1])[:, None]
        return start + np.count_nonzero(passed, axis=1, keepdims=True)


class _Direction:
    """All walks in one direction; ``open_`` marks the units from which a walk can reach an end."""

    def __init__(
        self, graph: UnitGraph, kernels: Mapping[str, _Kernels], open_: Mask, seed: int, *, backward: bool
    ) -> None:
        starts, ends = (graph.outputs, graph.inputs) if backward else (graph.inputs, graph.outputs)
        self.starts = starts[open_[starts]]
        self.backward, self.seed = backward, seed
        self.steps: list[_EdgesStep | _MergeStep] = [
            _EdgesStep(step, kernels[step.name], open_, backward)
            if isinstance(step, Edges)
            else _MergeStep(step, open_, backward)
            for step in (reversed(graph.steps) if backward else graph.steps)
        ]
        # The steps that begin at each unit, sorted by unit.
        units = np.concatenate([ends, *(step.units for step in self.steps)])
        steps = np.repeat([END, *range(len(self.steps))], [len(ends), *(len(step.units) for step in self.steps)])
        self.ways = steps[np.argsort(units, kind="stable")]
        self.num_ways = np.bincount(units, minlength=graph.num_units)
        self.first_way = np.cumsum(self.num_ways) - self.num_ways

    def visited(self, first: int, count: int) -> Visited:
        weights, times = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        waiting: dict[int, list[tuple[Integers, Units]]] = defaultdict(list)

        def send(walks: Integers, units: Units, uniform: Float64) -> None:
            """Queue each walk at the next step that it takes."""
            way = (uniform * self.num_ways[units]).astype(np.int64)
            steps = self.ways[self.first_way[units] + way]
            for step in np.unique(steps).tolist():
                here = steps == step
                waiting[step].append((walks[here], units[here]))

        walks = np.arange(count)
        send(walks, self.starts[(first + walks) % len(self.starts)], self._uniform(END, first, count)[:, 0])
        for number, step in enumerate(self.steps):
            if not waiting[number]:
                continue
            walks, units = (np.concatenate(each) for each in zip(*waiting.pop(number), strict=True))
            uniform = self._uniform(number, first, count)[walks]
            units, visited = step.take(units, uniform)
            weights.append(visited.reshape(-1))
            when = (2 * (first + walks) + self.backward) * len(self.steps) + number
            times.append(np.repeat(when, visited.shape[1]))
            send(walks, units, uniform[:, 2])
        return Visited(np.concatenate(weights), np.concatenate(times))

    def _uniform(self, step: int, first: int, count: int) -> Float64:
        """Return four numbers for each walk at this step, uniform on (0, 1), (count, 4)."""
        # The counter is the walk's number, so a walk does not depend on the walks drawn together with it.
        generator = initialization.philox(self.seed, "walks", f"{self.backward}:{step}", counter=first)
        return initialization.unit_interval(generator.random_raw(4 * count)).reshape(count, 4)


class _EdgesStep:
    """A step along a weight of a layer.

    Rows of the table are the layer's inputs (backward: its outputs), sorted by unit; columns are the units they reach.
    """

    def __init__(self, edges: Edges, kernels: _Kernels, open_: Mask, backward: bool) -> None:
        self.kernels, self.backward = kernels, backward
        self.transposed = edges.transposed
        totals = edges.blocks(kernels.totals)
        _, self.outputs, self.inputs = totals.shape  # of a group
        rows, columns = (edges.targets, edges.sources) if backward else (edges.sources, edges.targets)
        self.ends = columns.reshape(edges.groups, -1)
        towards = totals if backward else totals.transpose(0, 2, 1)
        table = (towards * open_[self.ends][:, None, :]).reshape(len(rows), -1)
        self.order = np.argsort(rows, kind="stable")[np.count_nonzero(rows == NOTHING) :]
        self.sums = table[self.order].reshape(-1).cumsum()
        up_to = self.sums[table.shape[1] - 1 :: table.shape[1]]
        self.units, begin, count = np.unique(rows[self.order], return_index=True, return_counts=True)
        self.low = np.append(0.0, up_to)[begin]
        self.high = up_to[begin + count - 1]
        way = self.high > self.low
        self.units, self.low, self.high = self.units[way], self.low[way], self.high[way]

    def take(self, units: Units, uniform: Float64) -> tuple[Units, Integers]:
        """Return the units after the step, and the weights passed, (n, 1) or, for whole kernels, (n, positions)."""
        which = self.units.searchsorted(units)
        low, high = self.low[which], self.high[which]
        place = self.sums.searchsorted(_below(low + uniform[:, 0] * (high - low), high), side="right")
        row, column = np.divmod(place, self.ends.shape[1])
        row = self.order[row]
        if self.backward:
            (group, output), input_ = np.divmod(row, self.outputs), column
        else:
            (group, input_), output = np.divmod(row, self.inputs), column
        if self.transposed:
            connection = (group * self.inputs + input_) * self.outputs + output
        else:
            connection = (group * self.outputs + output) * self.inputs + input_
        return self.ends[group, column], self.kernels.weights(connection, uniform[:, 1])


class _MergeStep:
    """A step along an identity connection."""

    def __init__(self, merge: Merge, open_: Mask, backward: bool) -> None:
        rows, ends = (merge.targets, merge.sources) if backward else (merge.sources, merge.targets)
        rows, ends = rows[open_[ends]], ends[open_[ends]]
        self.ends = ends[np.argsort(rows, kind="stable")]
        self.units, self.begin, self.count = np.unique(np.sort(rows), return_index=True, return_counts=True)

    def take(self, units: Units, uniform: Float64) -> tuple[Units, Integers]:
        which = self.units.searchsorted(units)
        place = self.begin[which] + (uniform[:, 0] * self.count[which]).astype(np.int64)
        return self.ends[place], np.zeros((len(units), 0), np.int64)


def _below(value: Float64, bound: Float64) -> Float64:
    """Return the value, or the largest number below the bound if rounding has reached the bound."""
    return np.minimum(value, np.nextafter(bound, 0.0))


def _num_reachable(graph: UnitGraph, kernels: Mapping[str, _Kernels], reached: Mask, leading: Mask) -> dict[str, int]:
    """Return the number of weights of each layer that some walk could visit."""
    on_a_path: dict[str, Mask] = {}
    for step in graph.steps:
        if isinstance(step, Edges):
            sources = reached[step.sources].reshape(step.groups, 1, -1)
            targets = leading[step.targets].reshape(step.groups, -1, 1)
            here = step.from_blocks(sources & targets) & (kernels[step.name].totals > 0)
            on_a_path[step.name] = on_a_path.get(step.name, here) | here
    return {
        name: int(here.sum()) * kernels[name].positions
        if kernels[name].whole
        else int(np.count_nonzero(kernels[name].strengths[here.reshape(-1)]))
        for name, here in on_a_path.items()
    }
