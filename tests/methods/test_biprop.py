"""Biprop: its gain, its gradient, and edge-popup as its special case."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_subnets import Biprop, EdgePopup, mask_, masked_weights, masks
from lightning_subnets.masking.masked_class import effective_weight
from lightning_subnets.networks import Conv2


def test_weights_and_gradient_are_those_worked_out_by_hand() -> None:
    network = mask_(nn.Sequential(nn.Linear(2, 2, bias=False)), Biprop(0.75), weights="kaiming_normal")
    layer, *_ = masked_weights(network).values()
    assert layer.scores is not None
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, -1.0], [5.0, -3.0]]))
        layer.scores.copy_(torch.tensor([[1.0, -2.0], [0.1, 3.0]]))
    # The weights 2, -1 and -3 are kept, with mean magnitude 2.
    assert effective_weight(layer).tolist() == [[2.0, -2.0], [0.0, -2.0]]
    torch.autograd.backward(effective_weight(layer), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert layer.scores.grad is not None
    assert layer.scores.grad.tolist() == [[2.0, 2.0], [15.0, -12.0]]  # sign(s) w g


def test_the_gain_of_a_large_layer_in_float16_is_finite() -> None:
    network = nn.Sequential(nn.Linear(512, 512, bias=False)).half()
    nn.init.ones_(network.get_parameter("0.weight"))
    mask_(network, Biprop(0.5), weights=None)
    assert {*effective_weight(next(iter(masked_weights(network).values()))).flatten().tolist()} == {0.0, 1.0}


@pytest.mark.parametrize(("weights", "same"), [("signed_constant", True), ("kaiming_normal", False)])
def test_it_is_edge_popup_if_all_weights_have_one_size_and_not_if_they_differ(weights: str, same: bool) -> None:
    runs = []
    for method in (Biprop(0.5), EdgePopup(0.5)):
        network = mask_(Conv2(in_channels=1, image_size=8, width_multiplier=0.25).double(), method, weights=weights)
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
        generator = torch.Generator().manual_seed(0)
        losses = []
        for _ in range(5):
            images = torch.rand(16, 1, 8, 8, generator=generator, dtype=torch.float64)
            loss = nn.functional.cross_entropy(network(images), torch.arange(16) % 10)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(loss.item())
        runs.append((losses, masks(network)))
    (ours, our_masks), (theirs, their_masks) = runs
    assert (ours == pytest.approx(theirs, rel=1e-12)) == same
    assert all(torch.equal(mask, their_masks[name]) for name, mask in our_masks.items()) == same
