"""EdgePopup: ranking over all layers, and signed scores."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from lightning_subnets import EdgePopup, density, mask_, masked_layers, unmask_
from lightning_subnets.masking import MaskedLayer


def pair(method: EdgePopup) -> tuple[nn.Module, MaskedLayer, MaskedLayer]:
    network = mask_(nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)), method)
    (_, first), (_, second) = masked_layers(network)
    return network, first, second


def set_scores_(layer: MaskedLayer, values: list[list[float]]) -> None:
    assert layer.scores is not None
    with torch.no_grad():
        layer.scores.copy_(torch.tensor(values))


def test_global_selection_keeps_the_highest_scores_of_all_layers() -> None:
    network, first, second = pair(EdgePopup(0.5, allocation="global"))
    set_scores_(first, [[0.9, -0.8], [0.7, 0.1]])
    set_scores_(second, [[-0.6, 0.2], [0.3, 0.4]])
    network(torch.ones(1, 2))
    assert first.mask().tolist() == [[True, True], [True, False]]
    assert second.mask().tolist() == [[True, False], [False, False]]


def test_every_layer_starts_at_about_the_same_density_whatever_its_fan_in() -> None:
    layers = nn.Linear(20, 1000, bias=False), nn.Linear(1000, 20, bias=False)
    network = mask_(nn.Sequential(*layers), EdgePopup(0.2, allocation="global"))
    for share in density(network, per_layer=True).values():
        assert abs(share - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 20_000)


def test_the_first_layer_wins_between_equal_scores() -> None:
    _, first, second = pair(EdgePopup(0.5, allocation="global"))
    set_scores_(first, [[1.0, 0.5], [0.5, 0.1]])
    set_scores_(second, [[0.5, 0.5], [0.5, 0.1]])
    assert first.mask().tolist() == [[True, True], [True, False]]
    assert second.mask().tolist() == [[True, False], [False, False]]


def expected(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits with masks that are computed now."""
    return unmask_(copy.deepcopy(network))(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize("edited", [0, 1])
def test_an_edit_of_one_layer_is_seen_by_all(edited: int) -> None:
    torch.manual_seed(0)
    network, *layers = pair(EdgePopup(0.5, allocation="global"))
    images = torch.rand(3, 2)
    network(images)
    set_scores_(layers[edited], [[5.0, 6.0], [7.0, 8.0]])
    assert torch.equal(network(images), expected(network, images))
    assert layers[edited].mask().all()
    assert not layers[1 - edited].mask().any()


def test_a_copy_of_a_network_ranks_its_own_layers() -> None:
    network, first, _ = pair(EdgePopup(0.5, allocation="global"))
    twin = copy.deepcopy(network)
    before = [layer.mask() for _, layer in masked_layers(twin)]
    set_scores_(first, [[5.0, 6.0], [7.0, 8.0]])
    assert all(torch.equal(layer.mask(), mask) for (_, layer), mask in zip(masked_layers(twin), before, strict=True))


def test_without_absolute_values_a_negative_score_is_a_low_one() -> None:
    _, first, _ = pair(EdgePopup(0.5, absolute=False))
    set_scores_(first, [[-0.9, 0.2], [0.1, -0.3]])
    assert first.mask().tolist() == [[False, True], [True, False]]
    assert first.scores is not None
    images, upstream = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    torch.autograd.backward(first(images), upstream)
    # dL/dw_eff = g x^T; ds = w g x^T, whatever the sign of s.
    assert torch.allclose(first.scores.grad, first.weight * upstream.T * images)  # type: ignore[arg-type]
