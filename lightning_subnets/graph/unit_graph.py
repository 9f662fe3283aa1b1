"""A network as a graph whose nodes are units and whose edges are weights, and the number of its paths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Units = NDArray[np.int64]
Float64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

Number = TypeVar("Number", np.float64, np.int64, np.bool_)

NOTHING = -1  # stands for a unit if a channel holds a constant, for instance padding zeros


class Edges(NamedTuple):
    """One call of a layer: each input channel or feature leads to each output of its group.

    A channel of 4x4 that ``flatten`` turns into features is the source of 16 inputs.
    """

    name: str
    sources: Units  # of each input, (in,); NOTHING for a constant
    targets: Units  # of each output, (out,); each unit is the target of one step only
    groups: int  # of a convolution; 1 for a Linear
    transposed: bool = False  # whether the weight's layout is (in, out / groups, ...), as in a transposed convolution

    def blocks(self, values: NDArray[Number]) -> NDArray[Number]:
        """Return numbers in the layout of the weight, (out, in / groups), by group: (groups, outputs, inputs)."""
        blocks = values.reshape(self.groups, -1, values.shape[1])
        return blocks.transpose(0, 2, 1) if self.transposed else blocks

    def from_blocks(self, blocks: NDArray[Number]) -> NDArray[Number]:
        """Return numbers in the layout of the weight from those by group; the inverse of ``blocks``."""
        blocks = blocks.transpose(0, 2, 1) if self.transposed else blocks
        return blocks.reshape(-1, blocks.shape[2])


class Merge(NamedTuple):
    """Identity connections, from ``sources[n]`` to ``targets[n]``: units that are added, multiplied or averaged."""

    sources: Units
    targets: Units


class UnitGraph(NamedTuple):
    """The units of a network, numbered from 0, and the steps from its inputs to its outputs in topological order.

    A unit is a channel, with all its positions, a feature, of all tokens, or a neuron. Activations, norms, pooling,
    concatenation, views and channel shuffles keep units. Layers make new units, and so does every operation that joins
    two feature maps: the sum of a block and its shortcut, or the product in squeeze-and-excitation and in attention, to
    which both factors lead: a head's queries and keys lead to each of its output features, as do the same feature's
    values.
    """

    num_units: int  # of all steps and the inputs together
    inputs: Units  # the image's channels, or the features
    outputs: Units
    steps: tuple[Edges | Merge, ...]  # the sources of each step are inputs or targets of earlier steps

    def log_paths(self, weights: Mapping[str, Float64], *, backward: bool = False) -> Float64:
        """Return log10 of the number of paths from the inputs to each unit, or (backward) from it to the outputs.

        The number itself exceeds float64's range in a deep network.

        Args:
            weights: number of weights between an output and an input by the layer's name, in the layout of its weight,
                (out, in / groups). If they are other numbers >= 0, a path counts as the product of its edges.
            backward: whether to count paths from each unit, instead of to it.

        Returns: (num_units,); -inf if there is no path.
        """
        logs = np.full(self.num_units + 1, -np.inf)  # of base 2; the last one is NOTHING's
        logs[self.outputs if backward else self.inputs] = 0.0
        for step in reversed(self.steps) if backward else self.steps:
            start, end = (step.targets, step.sources) if backward else (step.sources, step.targets)
            top = logs[start].max()
            if top == -np.inf:
                continue
            # A value smaller by 2^1000 changes no sum, but must not become 0.
            values = np.where(logs[start] > -np.inf, np.exp2(np.maximum(logs[start] - top, -1000.0)), 0.0)
            if isinstance(step, Edges):
                blocks = step.blocks(weights[step.name])
                columns = values.reshape(step.groups, -1, 1)
                values = ((blocks.transpose(0, 2, 1) if backward else blocks) @ columns).reshape(-1)
            ends, which = np.unique(end, return_inverse=True)
            with np.errstate(divide="ignore"):
                logs[ends] = np.logaddexp2(logs[ends], np.log2(np.bincount(which, values)) + top)
        return logs[:-1] * math.log10(2.0)
