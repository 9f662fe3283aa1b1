"""EdgePopup: ranking over all layers, and signed scores."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from lightning_subnets import EdgePopup, UserError, density, mask_, masked_weights, masks, unmask_
from lightning_subnets.masking import MaskedWeight


def pair(method: EdgePopup) -> tuple[nn.Module, MaskedWeight, MaskedWeight]:
    network = mask_(nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)), method)
    first, second = masked_weights(network).values()
    return network, first, second


def set_scores_(layer: MaskedWeight, values: list[list[float]]) -> None:
    assert layer.scores is not None
    with torch.no_grad():
        layer.scores.copy_(torch.tensor(values))


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ([[0.9, -0.8], [0.7, 0.1]], [[-0.6, 0.2], [0.3, 0.4]], [True, True, True, False, True, False, False, False]),
        # The first layer comes first among equal scores.
        ([[1.0, 0.5], [0.5, 0.1]], [[0.5, 0.5], [0.5, 0.1]], [True, True, True, False, True, False, False, False]),
    ],
)
def test_global_selection_keeps_the_highest_scores_of_all_layers(
    first: list[list[float]], second: list[list[float]], kept: list[bool]
) -> None:
    network, *layers = pair(EdgePopup(0.5, allocation="global"))
    for layer, scores in zip(layers, (first, second), strict=True):
        set_scores_(layer, scores)
    assert torch.cat([mask.flatten() for mask in masks(network).values()]).tolist() == kept


class Three(EdgePopup):
    """A method of a user's that overrides ``num_kept`` alone."""

    def num_kept(self, total: int) -> int:
        return 3


def test_a_subclass_that_overrides_the_number_kept_of_a_weight_decides_it() -> None:
    network, *_ = pair(Three(0.5))
    assert density(network, per_weight=True) == {"0.weight": 0.75, "2.weight": 0.75}


def test_every_layer_starts_at_about_the_same_density_whatever_its_fan_in() -> None:
    layers = nn.Linear(20, 1000, bias=False), nn.Linear(1000, 20, bias=False)
    network = mask_(nn.Sequential(*layers), EdgePopup(0.2, allocation="global"))
    for share in density(network, per_weight=True).values():
        assert abs(share - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 20_000)


@pytest.mark.parametrize("edited", [0, 1])
def test_an_edit_of_one_layer_is_seen_by_all_and_not_by_a_copy(edited: int) -> None:
    torch.manual_seed(0)
    network, *layers = pair(EdgePopup(0.5, allocation="global"))
    images = torch.rand(3, 2)
    network(images)
    copied, before = copy.deepcopy(network), masks(network)
    set_scores_(layers[edited], [[5.0, 6.0], [7.0, 8.0]])
    assert torch.equal(network(images), unmask_(copy.deepcopy(network))(images))
    assert layers[edited].mask().all()
    assert not layers[1 - edited].mask().any()
    assert all(torch.equal(mask, before[name]) for name, mask in masks(copied).items())


def test_a_network_of_which_a_part_was_unmasked_has_no_ranking_left() -> None:
    network, first, _ = pair(EdgePopup(0.5, allocation="global"))
    unmask_(first.module)
    for use in (masks, unmask_, lambda network: network(torch.ones(1, 2))):
        with pytest.raises(UserError, match=r"the weight of a Linear is masked no longer.* unmask all of it$"):
            use(network)


def test_without_absolute_values_a_negative_score_is_a_low_one() -> None:
    _, first, _ = pair(EdgePopup(0.5, absolute=False))
    set_scores_(first, [[-0.9, 0.2], [0.1, -0.3]])
    assert first.mask().tolist() == [[False, True], [True, False]]
    assert first.scores is not None
    images, upstream = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    torch.autograd.backward(first.module(images), upstream)
    # dL/dw_eff = g x^T; ds = w g x^T, whatever the sign of s.
    assert torch.allclose(first.scores.grad, first.weight * upstream.T * images)  # type: ignore[arg-type]
