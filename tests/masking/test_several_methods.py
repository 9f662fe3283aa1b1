"""Parts of a network may be masked by methods of their own, and networks may share one method."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch
from masked_networks import IMAGES, loss_of, masked_network, scores_of, small_network
from torch import nn

from lightning_subnets import (
    EdgePopup,
    GemMiner,
    IteRand,
    Magnitude,
    Method,
    Multicoated,
    SignedSupermask,
    SupSup,
    UserError,
    density,
    load_subnet,
    mask_,
    masked_weights,
    masks,
    save_subnet,
    unmask_,
)
from lightning_subnets.masking.masked_class import effective_weight

METHODS: list[Method] = [
    EdgePopup(0.4),
    EdgePopup(0.4, absolute=False),
    EdgePopup(0.3, allocation="global"),
    SignedSupermask(0.5),
    Multicoated(0.5),
    GemMiner(0.5),
]


def masked_by(*methods: Method) -> nn.Sequential:
    """Return a network whose layers 0, 3 and 6 are masked by these methods."""
    network = small_network()
    for layer, method in zip((0, 3, 6), methods, strict=True):
        mask_(network[layer], method, weights="kaiming_normal", seed=layer)
    return network.eval()


def test_masks_are_those_that_the_network_computes_with() -> None:
    for methods in permutations(METHODS, 3):
        network = masked_by(*methods)
        outputs, found, densities = network(IMAGES), masks(network), density(network, per_weight=True)
        for index in (0, 3, 6):
            layer, name = network[index], f"{index}.weight"
            assert torch.equal(found[name], effective_weight(masked_weights(network)[name]) != 0), methods
            assert densities[name] == density(layer), methods
        assert torch.equal(unmask_(network)(IMAGES), outputs), methods


def test_a_global_method_ranks_the_weights_of_each_network_by_themselves() -> None:
    method = EdgePopup(0.3, allocation="global")
    networks = [mask_(small_network(), method, seed=seed) for seed in range(2)]
    alone = [mask_(small_network(), EdgePopup(0.3, allocation="global"), seed=seed) for seed in range(2)]
    shared = torch.optim.SGD([each for network in networks for each in scores_of(network).values()], lr=1.0)
    apart = [torch.optim.SGD(scores_of(network).values(), lr=1.0) for network in alone]
    for _ in range(2):
        for network in (*networks, *alone):
            torch.autograd.backward(loss_of(network))
        for optimizer in (shared, *apart):
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(networks, alone, strict=True):
        assert torch.equal(one(IMAGES), other(IMAGES))
        assert masks(one).keys() == masks(other).keys()
        assert all(torch.equal(mask, masks(other)[name]) for name, mask in masks(one).items())


def test_a_file_holds_one_method(tmp_path: Path) -> None:
    for methods in permutations(METHODS[:4], 3):
        with pytest.raises(UserError, match=r"has several methods, .* and .* a .subnet file holds one: mask the whole"):
            save_subnet(masked_by(*methods), tmp_path / "a.subnet", network="my.Network")
    assert not (tmp_path / "a.subnet").exists()
    network = masked_by(*(EdgePopup(0.4) for _ in range(3)))  # of three seeds
    save_subnet(network, tmp_path / "a.subnet", network="my.Network")
    for masked in (False, True):
        again = load_subnet(tmp_path / "a.subnet", network=small_network(), masked=masked)
        assert torch.equal(again.eval()(IMAGES), network(IMAGES))


def test_tasks_are_learned_by_methods_that_change_no_weight() -> None:
    network = nn.Sequential(*masked_network().children())
    unmask_(network[6])
    mask_(network[6], Magnitude(0.5), weights="kaiming_normal")
    with pytest.raises(UserError, match="Magnitude changes weights: take a method that trains scores"):
        SupSup(network)


def test_a_method_changes_after_a_step_only_what_it_masks() -> None:
    for method, other in (
        (GemMiner(0.5, every=1), GemMiner(0.5, every=1000)),
        (IteRand(0.5, every=1, share=1.0), IteRand(0.5, every=1000, share=1.0)),
    ):
        network = masked_by(method, other, EdgePopup(0.4))
        before = {key: value.clone() for key, value in network[3:].state_dict().items()}
        method.after_step_(network, 1, 128)
        assert all(torch.equal(value, before[key]) for key, value in network[3:].state_dict().items())
