from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_subnets import IteRand, UserError, initialization, mask_, masked_layers


def test_only_a_share_of_the_unused_weights_is_drawn_again() -> None:
    method = IteRand(0.4, every=5, share=0.25)
    network = mask_(nn.Sequential(nn.Linear(200, 100, bias=False)), method, weights="kaiming_normal", seed=3)
    (_, layer), *_ = masked_layers(network)
    before, mask = layer.weight.clone(), layer.mask()
    for step in range(1, 5):
        method.after_step_(network, step)
        assert torch.equal(layer.weight, before)
    method.after_step_(network, 5)
    changed = layer.weight != before
    unused = int((~mask).sum())
    assert not (changed & mask).any()
    assert abs(changed.sum() / unused - 0.25) < 4 * math.sqrt(0.25 * 0.75 / unused)
    # from the same distribution
    new = layer.weight[changed]
    assert abs(new.mean()) < 4 * new.std() / math.sqrt(len(new))
    assert new.std() == pytest.approx(math.sqrt(2 / 200), rel=4 / math.sqrt(2 * len(new)))
    assert torch.equal(layer.mask(), mask)


def test_what_is_drawn_again_is_used_when_it_is_selected() -> None:
    torch.manual_seed(0)
    method = IteRand(0.5, every=1, share=1.0)
    network = mask_(nn.Sequential(nn.Linear(8, 8, bias=False)), method, weights="kaiming_normal")
    (_, layer), *_ = masked_layers(network)
    images = torch.rand(2, 8)
    network(images)
    method.after_step_(network, 1)
    assert layer.scores is not None
    with torch.no_grad():
        layer.scores[~layer.mask()] += 10.0
    assert torch.allclose(network(images), images @ (layer.weight * layer.mask()).T)


def test_each_time_other_weights_are_drawn_and_the_same_by_one_seed() -> None:
    states = []
    for seed in (1, 1, 2):
        method = IteRand(0.5, every=2, share=0.5)
        network = mask_(nn.Sequential(nn.Linear(20, 20)), method, weights="kaiming_normal", seed=seed)
        weights = []
        for step in (2, 4):
            method.after_step_(network, step)
            weights.append(masked_layers(network)[0][1].weight.clone())
        states.append(weights)
    (first, later), same, other = states
    assert torch.equal(first, same[0])
    assert torch.equal(later, same[1])
    assert not torch.equal(first, later)
    drawn = initialization.draw_weights("kaiming_normal", first.shape, seed=2, layer="0")
    assert not torch.equal(other[0], drawn)


def test_a_network_whose_weights_were_not_drawn_is_an_error_and_stays_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match="name their distribution"):
        mask_(network, IteRand(0.5), weights=None)
    assert type(network[0]) is nn.Linear


@pytest.mark.parametrize(("arguments", "message"), [({"every": 0}, "every = 0"), ({"share": 1.5}, "share = 1.5")])
def test_arguments_out_of_range_are_errors(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        IteRand(0.5, **arguments)  # type: ignore[arg-type]
