"""A copy of a masked network is a masked network of its own."""

from __future__ import annotations

import copy
import io
import pickle

import torch
from torch import nn

from lightning_subnets import (
    EdgePopup,
    MaskedConv2d,
    MaskedLinear,
    mask_,
    unmask_,
)


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 4, 5)
    )


def test_a_copy_computes_the_same_and_is_trained_by_itself() -> None:
    network = mask_(small_network(), EdgePopup(0.5)).eval()
    images = torch.randn(2, 3, 4, 4)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    for other in (
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        torch.load(file, weights_only=False),
    ):
        assert isinstance(other.get_submodule("0"), MaskedConv2d)
        assert isinstance(other.get_submodule("4"), MaskedLinear)
        assert torch.equal(other(images), network(images))
        with torch.no_grad():
            other.get_parameter("4.scores").neg_().sub_(1.0)
        assert not torch.equal(other(images), network(images))
        assert type(unmask_(other).get_submodule("0")) is nn.Conv2d


def test_a_state_dict_carries_all_that_is_needed_to_another_network() -> None:
    network = mask_(small_network(), EdgePopup(0.5), seed=0)
    other = mask_(small_network(), EdgePopup(0.5), seed=1)
    images = torch.randn(2, 3, 4, 4)
    network(images)
    assert not torch.equal(other.eval()(images), network.eval()(images))
    other.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(other(images), network(images))
