"""The number of weights kept, against values worked out by hand and the published networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
import torchvision

from lightning_subnets import EdgePopup, UserError
from lightning_subnets.masking.allocation import check_density, num_kept, uniform

# Blocks in each stage, width of a bottleneck, weights, and weights kept at density 0.3.
RESNETS = {
    "resnet50": ((3, 4, 6, 3), 64, 25_502_912, 7_650_902),
    "resnet101": ((3, 4, 23, 3), 64, 44_442_816, 13_332_914),
    "wide_resnet50_2": ((3, 4, 6, 3), 128, 68_814_016, 20_644_231),
}


def bottleneck_resnet(depths: tuple[int, ...], width: int) -> Iterator[int]:
    """Yield the number of weights of each layer, in torchvision's order. Source: He et al. 2016, Table 1."""
    yield 7 * 7 * 3 * 64
    inputs = 64
    for stage, depth in enumerate(depths):
        inner, outputs = width * 2**stage, 256 * 2**stage
        for block in range(depth):
            yield from (inputs * inner, 3 * 3 * inner * inner, inner * outputs)
            if block == 0:
                yield inputs * outputs
            inputs = outputs
    yield inputs * 1000


@pytest.mark.parametrize(
    ("total", "density", "kept"),
    [
        (10, 0.3, 3),  # 10 - 7
        (9408, 0.3, 2823),  # 9408 - int(6585.6)
        (7, 0.5, 4),  # 7 - int(3.5)
        (1, 0.3, 1),  # 1 - int(0.7)
        (1, 1.0, 1),
        (100, 1.0, 100),
        (1000, 0.001, 1),  # 1000 - 999
        (3, 0.01, 1),  # 3 - int(2.97)
        (10, 0.9, 10),  # 1 - 0.9 falls short of 0.1 in floating point, and the formula is kept to the last bit
    ],
)
def test_the_number_kept_is_the_total_less_the_integer_part_of_the_rest(total: int, density: float, kept: int) -> None:
    assert num_kept(total, density) == kept


@pytest.mark.parametrize("density", [1e-6, 0.01, 0.3, 0.5, 0.999, 1.0])
def test_at_least_one_weight_of_a_layer_is_kept_and_less_than_one_too_many(density: float) -> None:
    for total in range(1, 2000):
        kept = num_kept(total, density)
        assert 1 <= kept <= total
        assert density * total - 1e-9 <= kept < density * total + 1 + 1e-9


@pytest.mark.parametrize("name", RESNETS)
def test_the_networks_of_the_paper_keep_the_published_number_of_weights(name: str) -> None:
    depths, width, total, kept = RESNETS[name]
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    weights = {key: weight for key, weight in network.named_parameters() if weight.dim() > 1}
    totals = {key: weight.numel() for key, weight in weights.items()}
    by_hand = list(bottleneck_resnet(depths, width))
    assert list(totals.values()) == by_hand
    assert sum(by_hand) == total
    assert sum(n - math.floor(Fraction(7, 10) * n) for n in by_hand) == kept
    assert sum(uniform(totals, 0.3).values()) == kept


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0000001, 30.0, math.inf, math.nan])
def test_a_density_outside_its_range_is_an_error_that_names_it(density: float) -> None:
    for reject in (check_density, EdgePopup):
        with pytest.raises(UserError, match=rf"density = {density} is outside \(0, 1\]"):
            reject(density)
