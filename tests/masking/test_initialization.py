"""Weights and scores: their distributions against theory, their bits against what they were."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_subnets import EdgePopup, UserError, mask_
from lightning_subnets.masking import initialization
from lightning_subnets.masking.initialization import DISTRIBUTIONS, draw_biases, draw_scores, draw_weights, fans

SMALL = torch.Size((64, 32, 3, 3))

# The bits that a seed stands for. A change of these values changes every network that was found and named by its seed:
# never update them, but undo the change.
WEIGHTS = {
    "kaiming_normal": (
        ("0x1.0a49880000000p-3", "-0x1.dd86dc0000000p-6", "0x1.7fcb7e0000000p-8"),
        "ad8eedd434e4178cbc48c3cc494dcf3fb00f5df25690b2b74d90a0b97541d5b6",
    ),
    "signed_constant": (
        ("-0x1.5555560000000p-4", "0x1.5555560000000p-4", "-0x1.5555560000000p-4"),
        "3db2657afe87bb567d1e1ba1d60cc15da8309a886a7f15683d94604131312889",
    ),
    "kaiming_uniform": (
        ("0x1.0484500000000p-3", "-0x1.435c200000000p-5", "0x1.08facc0000000p-7"),
        "f1727bd390e7f33f0c982f8c20240038cbd46fac52ac9bb69c111edbea15fd71",
    ),
    "xavier_normal": (
        ("0x1.337b640000000p-4", "-0x1.13b3420000000p-6", "0x1.bb2b0e0000000p-9"),
        "8817ed17e43f85cd5247cf37595c8ab49f940851f5da96de56ac29cf6ebc8bdd",
    ),
    "xavier_signed_constant": (
        ("-0x1.8a23460000000p-5", "0x1.8a23460000000p-5", "-0x1.8a23460000000p-5"),
        "3ef0ca95563d1c79331ab552ba054ccea522edd0d91934eb890c8570d340dfc6",
    ),
    "scaled_kaiming_normal": (
        ("0x1.e62bf60000000p-3", "-0x1.b3eb9a0000000p-5", "0x1.5e5af00000000p-7"),
        "c5b8da213bd6710a85236a534513bf49c62b03d9aef20cb7cb273578452919fa",
    ),
}
SCORES = (
    ("0x1.d81b4e0000000p-6", "-0x1.6a3a400000000p-5", "-0x1.4e82f20000000p-7"),
    "f412996137f4b7667df922e67d4fb855bcde30c373f1644340598e62b5ceeb95",
)
BIASES = (
    ("0x1.990e460000000p-7", "0x1.8dcc6a0000000p-7", "0x1.85fac60000000p-5"),
    "f945aa30abf2d76e38ea52e14fb141ab3a1a2a35aac93dff540c3f8263e0f5a4",
)


def sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("distribution", WEIGHTS)
def test_weights_have_the_bits_they_have_always_had(distribution: str) -> None:
    first, digest = WEIGHTS[distribution]
    weights = draw_weights(distribution, SMALL, seed=0, stream="layer1.0.conv2", density=0.3)
    assert tuple(weight.hex() for weight in weights.flatten()[:3].tolist()) == first
    assert sha256(weights) == digest


def test_scores_and_biases_have_the_bits_they_have_always_had() -> None:
    scores = draw_scores(SMALL, seed=0, stream="layer1.0.conv2")
    biases = draw_biases(SMALL[:1], fan_in=fans(SMALL)[0], seed=0, stream="layer1.0.conv2")
    for drawn, (first, digest) in ((scores, SCORES), (biases, BIASES)):
        assert tuple(each.hex() for each in drawn.flatten()[:3].tolist()) == first
        assert sha256(drawn) == digest


# The even moments E z^2j of a draw of unit scale; odd moments are 0.
NORMAL = {2: 1.0, 4: 3.0, 8: 105.0}
SIGNS = {2: 1.0, 4: 1.0, 8: 1.0}
UNIFORM = {2: 1 / 3, 4: 1 / 5, 8: 1 / 9}
UNIT_MOMENTS = {
    "kaiming_normal": NORMAL,
    "signed_constant": SIGNS,
    "kaiming_uniform": UNIFORM,
    "xavier_normal": NORMAL,
    "xavier_signed_constant": SIGNS,
}


def scale(distribution: str, shape: torch.Size) -> float:
    outputs, inputs, kernel = shape[0], shape[1], math.prod(shape[2:])
    if distribution.startswith("xavier"):
        return math.sqrt(2 / (kernel * (inputs + outputs)))
    return math.sqrt((6 if distribution == "kaiming_uniform" else 2) / (kernel * inputs))


def assert_moments(unit: Tensor, moments: dict[int, float]) -> None:
    """Check mean, variance, 4th moment and balance of signs to 5 standard errors; 1e-6 is float32's rounding."""
    n = unit.numel()
    unit = unit.double()
    square = unit.square()
    assert abs(unit.mean()) < 5 * math.sqrt(moments[2] / n) + 1e-6
    assert abs(unit.sign().mean()) < 5 * math.sqrt(1 / n)
    assert abs(square.mean() - moments[2]) < 5 * math.sqrt((moments[4] - moments[2] ** 2) / n) + 1e-6
    assert abs(square.square().mean() - moments[4]) < 5 * math.sqrt((moments[8] - moments[4] ** 2) / n) + 1e-6


@pytest.mark.parametrize("distribution", UNIT_MOMENTS)
@pytest.mark.parametrize("shape", [(2048, 512), (64, 3, 7, 7), (256, 256, 3, 3)])
def test_weights_and_scores_have_the_moments_of_their_distribution(distribution: str, shape: tuple[int, ...]) -> None:
    size = torch.Size(shape)
    weights = draw_weights(distribution, size, seed=1, stream="a")
    assert (weights.shape, weights.dtype, weights.device.type) == (size, torch.float32, "cpu")
    assert_moments(weights / scale(distribution, size), UNIT_MOMENTS[distribution])
    assert_moments(draw_scores(size, seed=1, stream="a") / math.sqrt(1 / math.prod(shape[1:])), UNIFORM)


def test_biases_have_the_moments_and_the_bounds_of_those_of_torchs_own_layers() -> None:
    torchs = nn.Linear(36, 200_000).bias.detach()
    drawn = draw_biases(torch.Size((200_000,)), fan_in=36, seed=1, stream="a")
    bound = math.sqrt(1 / 36)
    for biases in (torchs, drawn):
        assert_moments(biases / bound, UNIFORM)
        assert 0.999 * bound < biases.abs().max() <= np.float32(bound)


@pytest.mark.parametrize("distribution", UNIT_MOMENTS)
@pytest.mark.parametrize("density", [0.01, 0.3, 1.0])
def test_scaled_weights_are_the_weights_over_the_root_of_the_density(distribution: str, density: float) -> None:
    plain = draw_weights(distribution, SMALL, seed=0, stream="a")
    assert torch.equal(draw_weights(distribution, SMALL, seed=0, stream="a", density=density), plain)
    scaled = draw_weights(f"scaled_{distribution}", SMALL, seed=0, stream="a", density=density)
    # Each is rounded to float32 once.
    torch.testing.assert_close(scaled.double(), plain.double() * math.sqrt(1 / density), rtol=2.0**-22, atol=0.0)


def test_an_unknown_distribution_is_an_error_that_names_the_nearest_and_all() -> None:
    with pytest.raises(UserError, match=r"'signed_constnt'\. Did you mean 'signed_constant'\?") as caught:
        draw_weights("signed_constnt", SMALL, seed=0, stream="a")
    assert all(distribution in str(caught.value) for distribution in DISTRIBUTIONS)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(7, 5),
        nn.Conv2d(6, 8, (3, 5)),
        nn.Conv2d(6, 8, 3, groups=2),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.Conv2d(6, 8, 1),
    ],
    ids=repr,
)
def test_fans_are_those_that_torch_counts(layer: nn.Linear | nn.Conv2d) -> None:
    assert fans(layer.weight.shape) == nn.init._calculate_fan_in_and_fan_out(layer.weight)


# The dependence of a draw on its arguments alone.

WHAT = ("scores", "biases", *UNIT_MOMENTS)


def draw(what: str, layer: str = "a", seed: int = 0) -> Tensor:
    if what == "scores":
        return draw_scores(SMALL, seed=seed, stream=layer)
    if what == "biases":
        return draw_biases(SMALL, fan_in=1, seed=seed, stream=layer)
    return draw_weights(what, SMALL, seed=seed, stream=layer)


@pytest.mark.parametrize("what", WHAT)
def test_a_draw_depends_neither_on_other_draws_nor_on_torchs_defaults(what: str) -> None:
    first, second = draw(what, "first"), draw(what, "second")
    torch.manual_seed(3)
    np.random.seed(3)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            again = draw(what, "second"), draw(what, "first")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again[0], second)
    assert torch.equal(again[1], first)


@pytest.mark.parametrize("chunk", [101, 18_431, 1 << 30])
def test_a_layer_does_not_depend_on_the_chunks_it_is_drawn_in(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = draw("kaiming_normal")
    monkeypatch.setattr(initialization, "_CHUNK", chunk)
    assert torch.equal(draw("kaiming_normal"), expected)


def test_every_seed_and_every_layer_has_numbers_of_its_own() -> None:
    keys = [(0, "a"), (1, "a"), (-1, "a"), (2**64, "a"), (0, "b"), (0, "a.0"), (0, ""), (10, "1"), (1, "01")]
    drawn = [draw("kaiming_normal", layer, seed) for seed, layer in keys]
    assert len({sha256(tensor) for tensor in drawn}) == len(keys)


def test_draws_of_other_layers_seeds_and_kinds_are_uncorrelated() -> None:
    n = SMALL.numel()
    columns = [draw("kaiming_normal"), draw("kaiming_normal", "b"), draw("kaiming_normal", seed=1), draw("scores")]
    correlation = torch.corrcoef(torch.stack([column.flatten().double() for column in columns]))
    assert (correlation - torch.eye(len(columns))).abs().max() < 5 / math.sqrt(n)


def test_items_of_a_list_start_as_the_name_of_the_list_says() -> None:
    network = nn.Sequential(nn.Linear(4, 4))
    network.gammas = nn.ParameterList([nn.Parameter(torch.full((4,), 1e-6))])
    network.tokens = nn.ParameterList([nn.Parameter(torch.zeros(1, 1, 4))])
    network.biases = nn.ParameterList([nn.Parameter(torch.rand(4))])
    mask_(network, EdgePopup(0.5))
    assert network.get_parameter("gammas.0").tolist() == [1.0] * 4
    assert network.get_parameter("tokens.0").any()
    assert not network.get_parameter("biases.0").any()
