from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_subnets import Magnitude, UserError, mask_, masked_layers


def masks_of(method: Magnitude) -> list[list[list[bool]]]:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[0.9, -0.8], [0.7, 0.1]]))  # type: ignore[operator]
        network[1].weight.copy_(torch.tensor([[-0.75, 0.2]]))  # type: ignore[operator]
    mask_(network, method, weights=None)
    return [layer.mask().tolist() for _, layer in masked_layers(network)]


def test_the_largest_weights_of_all_layers_are_kept() -> None:
    assert masks_of(Magnitude(0.5)) == [[[True, True], [False, False]], [[True, False]]]


def test_or_the_largest_of_each() -> None:
    assert masks_of(Magnitude(0.5, allocation="uniform")) == [[[True, True], [False, False]], [[True, False]]]
    assert masks_of(Magnitude(0.25, allocation="uniform")) == [[[True, False], [False, False]], [[True, False]]]


def test_all_are_kept_where_nothing_is_said() -> None:
    assert masks_of(Magnitude()) == [[[True, True], [True, True]], [[True, True]]]


def test_a_density_out_of_range_is_an_error() -> None:
    with pytest.raises(UserError, match=r"density = 1\.5 is outside"):
        Magnitude(1.5)
