"""SynFlow and SynFlow-L2: their scores, the conservation of flow, and layers that pruning empties."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import allocation, selection
from lightning_subnets.masking.maskable import find_weights
from lightning_subnets.masking.method import PruningData
from lightning_subnets.methods.synflow import SynFlow, SynFlowL2

Flow = type[SynFlow] | type[SynFlowL2]
both = pytest.mark.parametrize("method", [SynFlow, SynFlowL2])
IMAGE = PruningData(input_shape=(3, 32, 32))


def vgg(width: int = 4, *, norm: bool = True, depth: int = 5) -> nn.Sequential:
    """Return a narrow VGG-16, or its first blocks."""
    layers: list[nn.Module] = []
    channels = 3
    for block in range(depth):
        units = width * 2 ** min(block, 3)
        for _ in range(2 if block < 2 else 3):
            norms = [nn.BatchNorm2d(units)] if norm else []
            layers += [nn.Conv2d(channels, units, 3, padding=1, bias=False), *norms, nn.ReLU()]
            channels = units
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10, bias=False)]
    return nn.Sequential(*layers)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(self.norm1(self.conv1(images)).relu()))
        outputs: Tensor = (branch + self.shortcut(images)).relu()
        return outputs


def resnet() -> nn.Sequential:
    """Return a network whose first block has a convolution as shortcut, and the others the identity."""
    blocks = [Block(4, 8), Block(8, 8), Block(8, 8), Block(8, 8)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10, bias=False)]
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), *blocks, *head)


class Negative(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return -inputs


def with_signs_(network: nn.Module) -> nn.Module:
    """Give norms random scales of either sign, so that the scales matter."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    return network


def scores_of(method: SynFlow | SynFlowL2, flow: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Tensor]:
    weights = {name: each.parameter for name, each in find_weights(flow).masked.items()}
    return method.scores(flow, weights, input_shape)


def kept(masks: dict[str, Tensor]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


@pytest.mark.parametrize(
    ("method", "first", "second"),
    [(SynFlow, [[2.0, 4.0], [9.0, 3.0]], [[6.0, 12.0]]), (SynFlowL2, [[4.0, 16.0], [81.0, 9.0]], [[20.0, 90.0]])],
)
def test_the_scores_are_those_derived_by_hand(method: Flow, first: list[Any], second: list[Any]) -> None:
    """|W1| (1, 1) = (3, 4), so R = 2 * 3 + 3 * 4 = 18. With squares it is (5, 10), so R2 = 4 * 5 + 9 * 10 = 110."""
    chosen, network = method(0.5), two_layers()
    for _ in range(2):
        scores = scores_of(chosen, chosen.positive(network), (2,))
        assert [each.tolist() for each in scores.values()] == [first, second]
        network.append(Negative())  # changes no score


def two_layers() -> nn.Sequential:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network.get_parameter("0.weight").copy_(torch.tensor([[1.0, -2.0], [-3.0, 1.0]]))
        network.get_parameter("2.weight").copy_(torch.tensor([[-2.0, 3.0]]))
    return network


def test_each_round_scores_the_weights_that_are_left() -> None:
    """Compare with masks worked out by hand.

    One round keeps 12, 9 and 6, and a unit without input. Three rounds remove 2, so that R is 4 + 12, then 3, so that R
    is 4 + 9: two paths. In the weaker path the first layer's weight is kept, because the scores are equal.
    """
    at_once = SynFlow(0.5, rounds=1).compute_masks(two_layers(), PruningData(input_shape=(2,)))
    assert at_once["0.weight"].tolist() == [[False, False], [True, False]]
    assert at_once["2.weight"].tolist() == [[True, True]]
    one_by_one = SynFlow(0.5, rounds=3).compute_masks(two_layers(), PruningData(input_shape=(2,)))
    assert one_by_one["0.weight"].tolist() == [[False, True], [True, False]]
    assert one_by_one["2.weight"].tolist() == [[False, True]]


@both
def test_after_each_round_exactly_its_share_is_left_and_nothing_returns(
    method: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, counts = vgg(2, depth=2), []
    choose = selection.top_k_together

    def recording(scores: dict[str, Tensor], k: int) -> dict[str, Tensor]:
        counts.append((sum(each.numel() for each in scores.values()), k))
        return choose(scores, k)

    monkeypatch.setattr(selection, "top_k_together", recording)
    masks = method(0.001, rounds=7).compute_masks(network, IMAGE)
    total = sum(mask.numel() for mask in masks.values())
    wanted = [allocation.num_kept(total, 0.001 ** (step / 7)) for step in range(1, 8)]
    assert counts == list(zip([total, *wanted[:-1]], wanted, strict=True))
    assert sum(kept(masks).values()) == wanted[-1] == allocation.num_kept(total, 0.001)


@both
def test_weights_without_a_flow_are_kept_in_the_order_of_the_layers(method: Flow) -> None:
    """A norm with scale 0 stops all flow, so every score is 0; pruned weights stay pruned all the same."""
    network = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))
    nn.init.zeros_(network.get_parameter("1.weight"))
    masks = method(0.5, rounds=5).compute_masks(network, PruningData(input_shape=(1, 2, 2)))
    assert torch.cat([mask.flatten() for mask in masks.values()]).tolist() == [True] * 6 + [False] * 6


@both
@pytest.mark.parametrize("norm", [False, True])
def test_flow_is_conserved_at_each_unit_and_every_layer_of_a_chain_carries_all_of_it(method: Flow, norm: bool) -> None:
    chosen = method(0.5)
    flow = chosen.positive(with_signs_(vgg(norm=norm)))
    scores = scores_of(chosen, flow, (3, 32, 32))
    with torch.no_grad():
        all_that_flows = flow(torch.ones(1, 3, 32, 32, dtype=torch.float64)).sum()
    layers = list(scores.values())
    assert len(layers) == 14
    for before, after in pairwise(layers):
        incoming, outgoing = before.flatten(1).sum(1), after.transpose(0, 1).flatten(1).sum(1)
        torch.testing.assert_close(incoming, outgoing, rtol=1e-11, atol=0.0)
        torch.testing.assert_close(before.sum(), all_that_flows, rtol=1e-11, atol=0.0)


@both
def test_at_a_shortcut_parallel_layers_carry_the_flow_together(method: Flow) -> None:
    chosen = method(0.5)
    flow = chosen.positive(with_signs_(resnet()))
    scores = scores_of(chosen, flow, (3, 32, 32))
    sums = {name: each.sum() for name, each in scores.items()}
    with torch.no_grad():
        all_that_flows = flow(torch.ones(1, 3, 32, 32, dtype=torch.float64)).sum()
    for whole in (sums["0.weight"], sums["7.weight"], sums["1.conv2.weight"] + sums["1.shortcut.weight"]):
        torch.testing.assert_close(whole, all_that_flows, rtol=1e-11, atol=0.0)
    for block in "1234":
        torch.testing.assert_close(sums[f"{block}.conv1.weight"], sums[f"{block}.conv2.weight"], rtol=1e-11, atol=0.0)
        assert sums[f"{block}.conv1.weight"] < 0.99 * all_that_flows
        into = scores[f"{block}.conv1.weight"].flatten(1).sum(1)
        out = scores[f"{block}.conv2.weight"].transpose(0, 1).flatten(1).sum(1)
        torch.testing.assert_close(into, out, rtol=1e-11, atol=0.0)
    # The units of the stem feed a convolution and its shortcut.
    conv, shortcut = (scores[f"1.{name}.weight"].transpose(0, 1).flatten(1).sum(1) for name in ("conv1", "shortcut"))
    torch.testing.assert_close(scores["0.weight"].flatten(1).sum(1), conv + shortcut, rtol=1e-11, atol=0.0)


@both
def test_the_flow_of_a_bias_is_conserved(method: Flow) -> None:
    chosen = method(0.5)
    flow = chosen.positive(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    scores = scores_of(chosen, flow, (3,))
    through_bias = flow.get_parameter("0.bias") * flow.get_parameter("2.weight").sum(0)
    torch.testing.assert_close(
        scores["0.weight"].sum(1) + through_bias, scores["2.weight"].sum(0), rtol=1e-12, atol=0.0
    )


@both
@pytest.mark.thorough
def test_enough_rounds_leave_a_path_of_one_weight_a_layer_and_a_single_round_empties_layers(method: Flow) -> None:
    network = vgg(2)
    total = sum(layer.parameter.numel() for layer in find_weights(network).masked.values())
    density = 14 / total
    assert allocation.num_kept(total, density) == 14
    assert set(kept(method(density, rounds=300).compute_masks(network, IMAGE)).values()) == {1}
    assert min(kept(method(density, rounds=1).compute_masks(network, IMAGE)).values()) == 0


@both
@pytest.mark.thorough
def test_a_residual_network_loses_only_layers_beside_an_identity_and_still_carries_a_flow(method: Flow) -> None:
    network, chosen = resnet(), method(0.006)
    masks = chosen.compute_masks(network, IMAGE)
    emptied = {name for name, count in kept(masks).items() if count == 0}
    assert emptied
    assert emptied <= {f"{block}.conv{index}.weight" for block in "1234" for index in (1, 2)}
    assert max(kept(masks).values()) > 1
    flow = chosen.positive(network)
    with torch.no_grad():
        for name, layer in find_weights(flow).masked.items():
            layer.parameter.mul_(masks[name])
        assert flow(torch.ones(1, 3, 32, 32, dtype=torch.float64)).sum() > 0


@both
def test_statistics_of_batch_norm_do_not_matter(method: Flow) -> None:
    network = vgg(2, depth=2)
    before = method(0.1, rounds=3).compute_masks(network, IMAGE)
    network.train()(torch.randn(8, 3, 32, 32) + 5.0)
    after = method(0.1, rounds=3).compute_masks(network, IMAGE)
    assert all(torch.equal(mask, after[name]) for name, mask in before.items())


@both
def test_a_flow_that_is_not_finite_is_an_error(method: Flow) -> None:
    network = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(20)])
    for layer in network:
        nn.init.constant_(layer.get_parameter("weight"), 1e20)
    with pytest.raises(UserError, match=rf"{method.__name__} cannot score '0\.weight' of Sequential.*smaller"):
        method(0.5).compute_masks(network, PruningData(input_shape=(2,)))
