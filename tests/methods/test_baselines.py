"""Random, Magnitude, DNW and LinearProbe, and the arguments that methods refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from table import shuffle_net
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets import (
    DNW,
    Magnitude,
    PruneAtInit,
    Random,
    UserError,
    density,
    mask_,
    masked_weights,
    masks,
    raw_weight,
)
from lightning_subnets.masking import allocation
from lightning_subnets.masking.masked_class import effective_weight
from lightning_subnets.masking.method import PruningData
from lightning_subnets.networks import Conv4

SHAPES = {"conv": torch.Size((20, 10, 3, 3)), "linear": torch.Size((10, 20))}  # 1800 and 200 weights


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("EdgePopup", {"density": 0.0, "allocation": "global"}, r"density = 0\.0 is outside"),
        ("Magnitude", {"density": 1.5}, r"density = 1\.5 is outside"),
        ("EdgePopup", {"density": 0.1, "allocation": "unifrom"}, "unknown allocation 'unifrom'.*mean 'uniform'"),
        ("Magnitude", {"density": 0.1, "allocation": "erk"}, "unknown allocation 'erk'"),
        ("Random", {"density": 0.1, "allocation": "global"}, "unknown allocation 'global'"),
        ("IteRand", {"density": 0.5, "every": 0}, "every = 0 is below 1"),
        ("IteRand", {"density": 0.5, "share": 1.5}, r"share = 1.5 is outside \[0, 1\]"),
        ("Supermask", {"density": 0.0}, r"density = 0.0 is outside \(0, 1\)"),
        ("Supermask", {"density": 1.0}, r"density = 1.0 is outside \(0, 1\)"),
        ("Supermask", {"samples": 0}, "samples = 0 is below 1"),
        ("SNIP", {"density": 0.5, "samples_per_class": 0}, "samples_per_class = 0 is below 1"),
        ("GraSP", {"density": 0.5, "temperature": 0.0}, "temperature = 0.0 is not above 0"),
        ("GraSP", {"density": 0.5, "temperature": float("nan")}, "temperature = nan is not above 0"),
        ("SynFlow", {"density": 0.5, "rounds": 0}, "rounds = 0 is below 1"),
    ],
)  # fmt: skip
def test_an_argument_out_of_range_is_an_error(method: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        getattr(ls, method)(**arguments)


@pytest.mark.parametrize(
    ("method", "first", "second"),
    [
        (Magnitude(0.5), [[True, True], [False, False]], [[True, False]]),
        (Magnitude(0.25, allocation="uniform"), [[True, False], [False, False]], [[True, False]]),
        (Magnitude(), [[True, True], [True, True]], [[True, True]]),
    ],
)
def test_magnitude_keeps_the_largest_weights_of_all_layers_or_of_each(
    method: Magnitude, first: list[list[bool]], second: list[list[bool]]
) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        network.get_parameter("0.weight").copy_(torch.tensor([[0.9, -0.8], [0.7, 0.1]]))
        network.get_parameter("1.weight").copy_(torch.tensor([[-0.75, 0.2]]))
    found = masks(mask_(network, method, weights=None))
    assert {name: mask.tolist() for name, mask in found.items()} == {"0.weight": first, "1.weight": second}


@pytest.mark.parametrize("method", [DNW(0.5), Magnitude(0.5)])
def test_weights_of_one_magnitude_cannot_be_ranked_and_the_network_is_unchanged(method: ls.Method) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match="signed_constant"):
        mask_(network, method, weights="signed_constant")
    assert type(network[0]) is nn.Linear
    mask_(network, Magnitude(1.0), weights="signed_constant")


def test_weights_of_one_magnitude_cannot_be_ranked_by_it_in_any_layer() -> None:
    with pytest.raises(UserError, match=r"DNW keeps the largest weights.*use weights='kaiming_normal'"):
        mask_(shuffle_net(), DNW(1.0), weights="signed_constant", densities={"fc": 0.25})


def test_dnw_computes_with_the_largest_weights_gives_all_a_gradient_and_lets_them_return() -> None:
    network = mask_(nn.Sequential(nn.Linear(2, 2, bias=False)), DNW(0.5), weights="kaiming_normal")
    layer, *_ = masked_weights(network).values()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -2.0], [1.0, 0.1]]))
    assert effective_weight(layer).tolist() == [[0.0, -2.0], [1.0, 0.0]]
    torch.autograd.backward(effective_weight(layer), torch.tensor([[1.0, 2.0], [3.0, -5.0]]))
    torch.optim.SGD([layer.weight], lr=1.0).step()
    assert layer.weight.tolist() == [[-0.5, -4.0], [-2.0, pytest.approx(5.1)]]
    assert effective_weight(layer).tolist() == [[0.0, -4.0], [0.0, pytest.approx(5.1)]]


def test_random_keeps_each_weight_with_the_same_probability() -> None:
    kept = torch.zeros(40)
    for seed in range(400):
        kept += masks(mask_(nn.Sequential(nn.Linear(8, 5)), Random(0.3), seed=seed))["0.weight"].flatten()
    assert (kept / 400 - 0.3).abs().max() < 4 * math.sqrt(0.3 * 0.7 / 400)


@pytest.mark.parametrize(
    ("share", "conv", "linear"),
    [
        (0.1, 109, 91),  # the shapes sum to 36 and 30: e (36 + 30) = 0.1 * 2000, so 109.09 and 90.9 weights are kept
        (0.5, 800, 200),  # a layer that would be over full is dense, and the others get more
        (1.0, 1800, 200),
    ],
)
def test_erk_gives_each_layer_the_density_worked_out_by_hand(share: float, conv: int, linear: int) -> None:
    assert allocation.erk(SHAPES, share) == {"conv": conv, "linear": linear}


LAYERS = {name: torch.Size((10, size)) for name, size in {"first": 10, "second": 40, "last": 20}.items()}


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (0.2, [27, 53, 60]),  # e (100 (3^2 + 3) + 400 (2^2 + 2)) = 140 - 0.3 * 200, so 26.67 and 53.33
        (0.6, [100, 260, 60]),  # the first layer would be over full
        (0.9, [100, 400, 131]),  # only the last layer has room: 631 of 700 are kept
        (1.0, [100, 400, 200]),
    ],
)
def test_smart_ratio_gives_each_layer_the_density_worked_out_by_hand(share: float, kept: list[int]) -> None:
    assert [*allocation.smart_ratio(LAYERS, share).values()] == kept


def test_smart_ratio_is_an_error_if_its_share_of_the_last_layer_is_more_than_all_weights_kept() -> None:
    with pytest.raises(
        UserError, match=r"0.3 of the last masked layer, 60 weights of '.*', and density = 0.05 keeps 35 of all"
    ):
        mask_(nn.Sequential(nn.Linear(50, 10), nn.Linear(20, 10)), Random(0.05, allocation="smart_ratio"))


@pytest.mark.parametrize("share", [0.9, 0.001])
def test_erk_keeps_as_many_weights_as_the_density_says_in_all(share: float) -> None:
    network = mask_(Conv4(width_multiplier=0.25), Random(share, allocation="erk"))
    total = sum(mask.numel() for mask in masks(network).values())
    assert density(network) == allocation.num_kept(total, share) / total


def test_only_weights_under_the_mask_of_a_pruned_network_are_trained() -> None:
    network = mask_(nn.Sequential(nn.Linear(8, 5)), Random(0.3))
    layer, *_ = masked_weights(network).values()
    mask, before = layer.mask(), layer.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.autograd.backward(network(torch.rand(4, 8)).square().sum())
    optimizer.step()
    assert torch.equal(layer.weight == before, ~mask)
    assert torch.equal(layer.mask(), mask)


@pytest.mark.parametrize("keep_dense", [[], ["fc"], ["conv*"], ["*.0", "fc"]], ids=str)
def test_linear_probe_trains_only_the_last_layer_and_keeps_given_weights(keep_dense: list[str]) -> None:
    network = shuffle_net()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    mask_(network, ls.LinearProbe(), weights=None, keep_dense=keep_dense)
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    assert {name for name, each in network.named_parameters() if each.requires_grad} == {"fc.weight", "fc.bias"}


class Above(PruneAtInit):
    """Keeps the weights above a threshold: how many, only the weights say."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def compute_masks(self, network: nn.Module, data: PruningData) -> dict[str, Tensor]:
        return {name: each.abs() > self.threshold for name, each in network.named_parameters() if each.dim() > 1}


def test_an_own_method_needs_no_density() -> None:
    network = mask_(nn.Linear(30, 20), Above(0.05), weights="scaled_kaiming_normal")
    assert density(network) == (raw_weight(network).abs() > 0.05).double().mean().item()
    assert 0.1 < density(network) < 0.99
