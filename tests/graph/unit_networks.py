"""Networks small enough to work out their unit graphs by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_subnets.graph.unit_graph import Edges, Float64, UnitGraph
from lightning_subnets.masking.maskable import find_weights


class Net(nn.Module):
    """A forward pass given as a function of two layers, a and b, and the images."""

    def __init__(self, a: nn.Module, b: nn.Module, forward: Callable[[nn.Module, nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b = a, b
        self.steps = forward

    def forward(self, images: Tensor) -> Any:
        return self.steps(self.a, self.b, images)


def conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)


def ones(network: nn.Module) -> dict[str, Float64]:
    """Return the number of weights in each kernel, as if all were kept."""
    return {
        name: np.full(layer.parameter.shape[:2], float(math.prod(layer.parameter.shape[2:])))
        for name, layer in find_weights(network).masked.items()
    }


def edges(graph: UnitGraph, name: str) -> Edges:
    (found,) = [step for step in graph.steps if isinstance(step, Edges) and step.name == name]
    return found
