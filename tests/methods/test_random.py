from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_subnets import EdgePopup, Magnitude, Random, UserError, density, mask_, masked_layers
from lightning_subnets.masking import allocation
from lightning_subnets.networks import Conv4


@pytest.mark.parametrize("method", [EdgePopup, Magnitude, Random])
def test_an_allocation_that_nobody_knows_is_an_error(method: Any) -> None:
    with pytest.raises(UserError, match=r"unknown allocation 'unifrom'\. Did you mean 'uniform'"):
        method(0.1, allocation="unifrom")


def test_each_weight_is_as_likely_as_any_other() -> None:
    kept = torch.zeros(40)
    for seed in range(400):
        network = mask_(nn.Sequential(nn.Linear(8, 5)), Random(0.3), seed=seed)
        kept += masked_layers(network)[0][1].mask().flatten()
    assert (kept / 400 - 0.3).abs().max() < 4 * math.sqrt(0.3 * 0.7 / 400)


def test_erk_gives_each_layer_the_density_worked_out_by_hand() -> None:
    # Of 3x3x10x20 and 20x10: the sums of their shapes are 36 and 30, the numbers of weights 1800 and 200, so that
    # e (36 + 30) = 0.1 * 2000, and 109.09 and 90.9 weights are kept.
    shapes = {"conv": torch.Size((20, 10, 3, 3)), "linear": torch.Size((10, 20))}
    assert allocation.erk(shapes, 0.1) == {"conv": 109, "linear": 91}


def test_erk_leaves_a_layer_that_would_be_over_full_dense_and_gives_the_others_more() -> None:
    shapes = {"conv": torch.Size((20, 10, 3, 3)), "linear": torch.Size((10, 20))}
    assert allocation.erk(shapes, 0.5) == {"conv": 800, "linear": 200}
    assert allocation.erk(shapes, 1.0) == {"conv": 1800, "linear": 200}


def test_erk_keeps_as_many_as_the_density_says_in_all() -> None:
    for d in (0.9, 0.31, 0.1, 0.01, 0.001):
        network = mask_(Conv4(width_multiplier=0.25), Random(d, allocation="erk"))
        total = sum(layer.weight.numel() for _, layer in masked_layers(network))
        assert density(network) == allocation.num_kept(total, d) / total


def test_weights_are_trained_under_the_mask_and_the_others_stay() -> None:
    network = mask_(nn.Sequential(nn.Linear(8, 5)), Random(0.3))
    (_, layer), *_ = masked_layers(network)
    mask, before = layer.mask(), layer.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.autograd.backward(network(torch.rand(4, 8)).square().sum())
    optimizer.step()
    assert torch.equal(layer.weight == before, ~mask)
    assert torch.equal(layer.mask(), mask)
