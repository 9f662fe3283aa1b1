"""The normal distribution from exact arithmetic, against the standard library and its golden bits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_subnets.masking import initialization

# Probabilities that reach every branch of the inverse; a draw reaches the last branch once in 10^11.
NORMAL_QUANTILES = {
    2.0**-53: "-0x1.06b48528cea51p+3",
    1e-12: "-0x1.c234fba57a32ap+2",
    1e-5: "-0x1.10f3f8843a3dap+2",
    0.02: "-0x1.06e13e8aadfdbp+1",
    0.3: "-0x1.0c7e39582c5fap-1",
    0.5: "0x0.0p+0",
    0.925: "0x1.7085226d3e524p+0",
    1.0 - 2.0**-53: "0x1.06b48528cea51p+3",
}


def test_normal_quantiles_have_the_bits_they_have_always_had() -> None:
    quantiles = initialization._inverse_normal_cdf(np.array(list(NORMAL_QUANTILES)))
    assert [quantile.hex() for quantile in quantiles.tolist()] == list(NORMAL_QUANTILES.values())


# The inverse of the normal distribution, from the deepest tail a draw can reach to far below it.
PROBABILITIES = np.concatenate(
    [
        2.0 ** -np.arange(1.0, 1000.0, 0.37),
        np.linspace(0.0, 1.0, 20_001)[1:-1],
        [0.075, np.nextafter(0.075, 0.0), np.nextafter(0.075, 1.0), math.exp(-25), 2.0**-53],
        1.0 - 2.0 ** -np.arange(1.0, 53.5, 0.37),
    ]
)


def test_the_normal_distribution_undoes_its_inverse() -> None:
    quantiles = initialization._inverse_normal_cdf(PROBABILITIES)
    for probability, x in zip(PROBABILITIES.tolist(), quantiles.tolist(), strict=True):
        # A relative error e of x is one of about x^2 e in the tail's probability.
        tail, distance = (probability, x) if x < 0 else (1.0 - probability, -x)
        assert math.erfc(-distance / math.sqrt(2)) / 2 == pytest.approx(tail, rel=1e-14 * (1 + x * x), abs=0.0)


def test_the_logarithm_is_that_of_the_standard_library() -> None:
    x = np.concatenate([PROBABILITIES, [5e-324, 1.0, math.sqrt(0.5), math.sqrt(2.0), 3.0, 1e300]])
    expected = [math.log(value) for value in x.tolist()]
    np.testing.assert_allclose(initialization._log(x), expected, rtol=1e-15, atol=0.0)


def test_cells_are_the_midpoints_that_a_float_holds_exactly() -> None:
    raw = np.array([0, (1 << 12) - 1, 1 << 12, 1 << 63, (1 << 64) - 1], dtype=np.uint64)
    drawn = initialization.unit_interval(raw).tolist()
    assert drawn == [2.0**-53, 2.0**-53, 3 * 2.0**-53, 0.5 + 2.0**-53, 1 - 2.0**-53]
    assert initialization._uniform(raw).tolist() == [2 * each - 1 for each in drawn]
    assert initialization._signs(raw).tolist() == [1.0, 1.0, 1.0, -1.0, -1.0]
