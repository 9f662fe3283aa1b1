"""A masked network that is moved to another dtype keeps the numbers of its scores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from masked_networks import loss_of, masked_network, scores_of
from torch import nn

from lightning_subnets import EdgePopup, Magnitude, Method, Multicoated, Supermask, mask_, masks

CONVERSIONS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bfloat16": lambda network: network.bfloat16(),
    "half": lambda network: network.half(),
    "to": lambda network: network.to(torch.float16, memory_format=torch.channels_last),  # type: ignore[call-overload]
    "around": lambda network: nn.Sequential(network).to(torch.bfloat16)[0],
}


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
@pytest.mark.parametrize("swap", [False, True])
def test_scores_and_their_gradients_stay_float32_in_a_half_precision_network(
    convert: Callable[[nn.Module], nn.Module], swap: bool
) -> None:
    network = masked_network()
    torch.autograd.backward(loss_of(network))
    scores = scores_of(network)
    before = {name: (each.detach().clone(), each.grad.clone()) for name, each in scores.items()}  # type: ignore
    chosen = masks(network)
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        network = convert(network)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    for name, each in scores_of(network).items():
        assert each is scores[name]
        assert each.grad is not None
        for now, value in zip((each.detach(), each.grad), before[name], strict=True):
            assert now.dtype == torch.float32
            assert torch.equal(now, value)
    assert all(torch.equal(mask, chosen[name]) for name, mask in masks(network).items())
    assert {each.dtype for name, each in network.named_parameters() if name not in scores} <= {
        torch.float16,
        torch.bfloat16,
    }


@pytest.mark.parametrize("method", [EdgePopup(0.4), Multicoated(0.4), Supermask(0.4)], ids=repr)
def test_a_network_masked_before_it_is_cast_trains_as_one_cast_before_it_is_masked(method: Method) -> None:
    def trained(network: nn.Module) -> dict[str, nn.Parameter]:
        optimizer = torch.optim.SGD(scores_of(network).values(), lr=0.01)
        for _ in range(2):
            torch.manual_seed(0)
            optimizer.zero_grad()
            network(torch.ones(2, 8, dtype=torch.bfloat16)).square().sum().backward()
            optimizer.step()
        return scores_of(network)

    def linear() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))

    first = trained(mask_(linear(), method).bfloat16())
    second = trained(mask_(linear().bfloat16(), method))
    start = scores_of(mask_(linear(), method))
    for name, scores in first.items():
        assert torch.equal(scores, second[name])
        assert not torch.equal(scores, start[name])


def test_float64_and_masks_are_converted_as_torch_does() -> None:
    network = masked_network().double()
    assert all(scores.dtype == torch.float64 for scores in scores_of(network).values())
    assert all(scores.dtype == torch.float32 for scores in scores_of(network.half()).values())
    pruned = mask_(nn.Linear(4, 4), Magnitude(0.5), weights="kaiming_normal").half()
    assert pruned.scores.dtype == torch.bool
