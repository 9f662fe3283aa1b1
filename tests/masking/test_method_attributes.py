"""A method's attributes are part of what its masks are computed from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from masked_networks import small_network
from torch import Tensor

from lightning_subnets import EdgePopup, mask_, masked_weights
from lightning_subnets.masking.masked_class import effective_weight


class Above(EdgePopup):
    """Keeps the scores above a threshold, the sum of attributes of several kinds."""

    def __init__(self) -> None:
        super().__init__(0.4)
        self.threshold: Any = 0.0
        self.levels, self.tensor = [0.0], torch.zeros(1)

    def masks(self, layers: Any) -> list[Tensor]:
        threshold = self.threshold + self.levels[0] + getattr(self, "later", 0.0) + self.tensor
        return [layer.scores > threshold for layer in layers]


CHANGES: dict[str, Callable[[Any], object]] = {
    "a number": lambda method: setattr(method, "threshold", method.threshold + 0.01),
    "a list in place": lambda method: method.levels.append(method.levels.pop() + 0.01),
    "a new number": lambda method: setattr(method, "later", getattr(method, "later", 0.0) + 0.01),
    "another tensor": lambda method: setattr(method, "tensor", method.tensor + 0.01),
    "a tensor instead of a number": lambda method: setattr(
        method, "threshold", torch.tensor([method.threshold + 0.01])
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_method_is_used(change: str) -> None:
    method = Above()
    network = mask_(small_network(), method)
    for step in range(3):
        for layer in masked_weights(network).values():
            assert layer.scores is not None
            assert torch.equal(effective_weight(layer) != 0, layer.scores > 0.01 * step)
        CHANGES[change](method)
