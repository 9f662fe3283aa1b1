"""Weights and scores that are edited, loaded or replaced are used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from masked_networks import IMAGES, masked_network, scores_of
from test_cached_weight import is_fresh, layer_of, shuffle_
from torch import nn

from lightning_subnets.masking import MaskedWeight


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_scores_and_weights_are_used(assign: bool) -> None:
    network, other = masked_network(), masked_network(seed=5)
    network(IMAGES)
    network.load_state_dict(copy.deepcopy(other.state_dict()), assign=assign)
    assert is_fresh(network)
    assert torch.equal(network.eval()(IMAGES), other.eval()(IMAGES))


def edit_in_another_(layer: MaskedWeight) -> None:
    """Replace the scores by others over the same memory that were edited as often."""
    assert layer.scores is not None
    edits = layer.scores._version
    layer.module.scores = nn.Parameter(layer.scores.data)
    for _ in range(edits - layer.scores._version):
        shuffle_(layer.scores)
    assert layer.scores._version == edits


EDITS: dict[str, Callable[[Any], object]] = {
    "one score": lambda layer: layer.scores.view(-1)[0].fill_(9.0),
    "all scores": lambda layer: shuffle_(layer.scores),
    "a view of the scores": lambda layer: layer.scores.detach().flatten().neg_().add_(0.01),
    "a list of scores": lambda layer: torch._foreach_add_([layer.scores], [torch.rand_like(layer.weight)]),
    "one weight": lambda layer: layer.weight.view(-1)[0].fill_(9.0),
    "the number kept": lambda layer: setattr(layer.state, "num_kept", 5),
}


REPLACEMENTS: dict[str, Callable[[Any], object]] = {
    "scores": lambda layer: setattr(layer.module, "scores", nn.Parameter(torch.rand_like(layer.weight))),
    "data of the scores": lambda layer: setattr(layer.scores, "data", torch.rand_like(layer.weight)),
    "weight": lambda layer: setattr(layer.module, "weight", nn.Parameter(torch.rand_like(layer.weight))),
    "scores over the same memory": edit_in_another_,
    "scores from a vector": lambda layer: nn.utils.vector_to_parameters(torch.rand(layer.scores.numel()), layer.scores),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_in_place_is_used(edit: str, mode: Callable[[], torch.no_grad]) -> None:
    network = masked_network()
    for _ in range(2):
        assert is_fresh(network)
        with mode():
            EDITS[edit](layer_of(network))
        assert is_fresh(network)


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_a_replacement_is_used(replacement: str) -> None:
    network = masked_network()
    shuffle_(scores_of(network)["0.scores"])
    for _ in range(3):
        assert is_fresh(network)
        REPLACEMENTS[replacement](layer_of(network))
    assert is_fresh(network)
