from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_subnets import DNW, Magnitude, Method, UserError, mask_, masked_layers


def test_the_largest_weights_are_used_and_all_get_a_gradient() -> None:
    network = mask_(nn.Sequential(nn.Linear(2, 2, bias=False)), DNW(0.5), weights="kaiming_normal")
    (_, layer), *_ = masked_layers(network)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -2.0], [1.0, 0.1]]))
    upstream = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert layer.masked_weight().tolist() == [[0.0, -2.0], [1.0, 0.0]]
    torch.autograd.backward(layer.masked_weight(), upstream)
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == upstream.tolist()


def test_a_weight_that_grows_comes_in() -> None:
    network = mask_(nn.Sequential(nn.Linear(2, 2, bias=False)), DNW(0.5), weights="kaiming_normal")
    (_, layer), *_ = masked_layers(network)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -2.0], [1.0, 0.1]]))
    optimizer = torch.optim.SGD([layer.weight], lr=1.0)
    network(torch.zeros(1, 2))
    layer.weight.grad = torch.tensor([[0.0, 0.0], [0.0, -5.0]])
    optimizer.step()
    assert layer.masked_weight().tolist() == [[0.0, -2.0], [0.0, 5.099999904632568]]


@pytest.mark.parametrize("method", [DNW(0.5), Magnitude(0.5)])
def test_weights_of_one_magnitude_have_no_largest_and_the_network_stays_as_it_was(method: Method) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match="keeps the largest weights, and those of signed_constant are all of one size"):
        mask_(network, method, weights="signed_constant")
    assert type(network[0]) is nn.Linear
    mask_(network, Magnitude(1.0), weights="signed_constant")
