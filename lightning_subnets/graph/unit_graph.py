"""A network as a graph of units, with its weights as edges: what paths and walks are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Units = NDArray[np.int64]
Float64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

NOTHING = -1  # in the place of a unit where a channel holds a constant, zeros of a padding for instance


class Edges(NamedTuple):
    """A layer: each of its input channels or features leads to each of its outputs, within its group.

    Args:
        name: of the layer in its network; twice in a graph if the network calls it twice.
        sources: the unit of each input, (in,); NOTHING where it is a constant. A unit stands there more than once
            where positions became features: a channel of 4x4 before ``flatten`` is 16 of them.
        targets: the unit of each output, (out,); each is the target of one step only.
        groups: of a convolution, 1 for a Linear.
    """

    name: str
    sources: Units
    targets: Units
    groups: int


class Merge(NamedTuple):
    """Identity connections, from ``sources[n]`` to ``targets[n]``: units that are added, multiplied or averaged."""

    sources: Units
    targets: Units


class UnitGraph(NamedTuple):
    """The units of a network, numbered from 0, and the steps from its inputs to its outputs in topological order.

    A unit is a channel, with all its positions, or a neuron. Activations, norms, pooling, concatenation, views and
    shuffles of channels leave a unit the one it is; a layer makes new ones, and so does every operation that joins two
    feature maps: the sum of a block and its shortcut, and a product as in squeeze-and-excitation, for which both
    factors count as leading to it.

    Args:
        num_units: of all steps and the inputs together.
        inputs, outputs: the units of the image's channels and of the network's outputs.
        steps: every step's sources are inputs or targets of earlier steps.
    """

    num_units: int
    inputs: Units
    outputs: Units
    steps: tuple[Edges | Merge, ...]

    def log_paths(self, weights: Mapping[str, Float64], *, backward: bool = False) -> Float64:
        """log10 of the number of paths from the inputs to each unit, or on from each unit to the outputs.

        -inf where there is none. Logarithms, as a deep network has more paths than float64 has numbers.

        Args:
            weights: number of weights between an output and an input, (out, in / groups), by the layer's name. Any
                numbers >= 0 will do: a path then counts as the product of those of its edges.
            backward: on from each unit, instead of to it.

        Returns: (num_units,).
        """
        logs = np.full(self.num_units + 1, -np.inf)  # of base 2; the last one is NOTHING's
        logs[self.outputs if backward else self.inputs] = 0.0
        for step in reversed(self.steps) if backward else self.steps:
            start, end = (step.targets, step.sources) if backward else (step.sources, step.targets)
            top = logs[start].max()
            if top == -np.inf:
                continue
            # What is smaller by 2^1000 changes no sum, but must not become nothing.
            values = np.where(logs[start] > -np.inf, np.exp2(np.maximum(logs[start] - top, -1000.0)), 0.0)
            if isinstance(step, Edges):
                values = _through(weights[step.name], values, step.groups, backward)
            arriving = np.bincount(end % logs.size, values, logs.size)
            with np.errstate(divide="ignore"):
                logs = np.logaddexp2(logs, np.log2(arriving) + top)
        return logs[:-1] * math.log10(2.0)


def _through(weights: Float64, values: Float64, groups: int, backward: bool) -> Float64:
    """What a layer makes of its inputs' values, or backward of its outputs'."""
    blocks = weights.reshape(groups, -1, weights.shape[1])
    columns = values.reshape(groups, -1, 1)
    return ((blocks.transpose(0, 2, 1) if backward else blocks) @ columns).reshape(-1)
