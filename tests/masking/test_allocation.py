"""The number of weights kept, against values worked out by hand and the published networks."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import torchvision

from lightning_subnets import EdgePopup, UserError
from lightning_subnets.masking.allocation import check_density, num_kept, uniform

# Weights, and weights kept at density 0.3.
RESNETS = {
    "resnet50": (25_502_912, 7_650_902),
    "resnet101": (44_442_816, 13_332_914),
    "wide_resnet50_2": (68_814_016, 20_644_231),
}


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
    total, kept = RESNETS[name]
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    shapes = {key: weight.shape for key, weight in network.named_parameters() if weight.dim() > 1}
    totals = [shape.numel() for shape in shapes.values()]
    assert sum(totals) == total
    assert sum(n - math.floor(Fraction(7, 10) * n) for n in totals) == kept
    assert sum(uniform(shapes, 0.3).values()) == kept


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0000001, 30.0, math.inf, math.nan])
def test_a_density_outside_its_range_is_an_error_that_names_it(density: float) -> None:
    for reject in (check_density, EdgePopup):
        with pytest.raises(UserError, match=rf"density = {density} is outside \(0, 1\]"):
            reject(density)
