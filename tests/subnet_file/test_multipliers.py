"""Files of masks that flip, multiply or leave edges to the seed, and of trained norms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from small_subnets import WITH_NORMS, changed, content, train_, with_norms

import lightning_subnets as ls
from lightning_subnets.masking.masked_weight import multipliers
from lightning_subnets.masking.method import Method
from lightning_subnets.subnet_file import load_subnet, save_subnet


def entropy(*shares: float) -> float:
    return -sum(share * math.log2(share) for share in shares)


@pytest.mark.parametrize(
    ("method", "bits"),
    [
        # Coats of 0.3, 0.0788 and 0.0315: shares of m = 0, 1, 2 and 3.
        (ls.Multicoated(0.3), entropy(0.7, 0.3 - 0.0788, 0.0788 - 0.0315, 0.0315)),
        (ls.Multicoated(0.1, inner=[], signed=True), entropy(0.9, 0.1) + 0.1),
        (ls.SignedSupermask(0.3), entropy(0.7, 0.3) + 0.3),
        (ls.PartiallyFrozen(0.3, frozen=0.7), 0.3 * entropy(0.7, 0.3)),
        (ls.SignedSupermask(0.3, frozen=0.5), 0.5 * (entropy(0.7, 0.3) + 0.3)),
    ],
    ids=str,
)
def test_multipliers_take_about_their_entropy_and_frozen_edges_nothing(
    method: Method, bits: float, tmp_path: Path
) -> None:
    network = ls.mask_(torchvision.models.resnet18(), method, seed=1)
    save_subnet(network, tmp_path / "a.subnet")
    header, tensors = content(tmp_path / "a.subnet")
    stored = sum(each.numel() for name, each in tensors.items() if not name.startswith("state/"))
    weights = sum(math.prod(layer["shape"]) for layer in header["layers"].values())
    assert bits * 0.99 < stored * 8 / weights < 1.02 * bits


@pytest.mark.parametrize("sign", [-1.0, 0.0, 1.0])
def test_a_multiplier_of_one_value_alone_keeps_its_type(sign: float, tmp_path: Path) -> None:
    network = ls.mask_(with_norms(), ls.SignedSupermask(0.5))
    with torch.no_grad():
        for weight in ls.masked_weights(network).values():
            assert weight.scores is not None
            weight.scores.fill_(sign)
    save_subnet(network, tmp_path / "a.subnet", network=WITH_NORMS)
    again = load_subnet(tmp_path / "a.subnet", masked=True)
    assert all((each == int(sign)).all() for each in multipliers(again).values())


def test_trained_norms_are_restored_and_trained_further(tmp_path: Path) -> None:
    network = ls.mask_(with_norms(), ls.Multicoated(0.3, signed=True, frozen=0.5), norms="trained", seed=4)
    train_(network, shape=(3, 8, 8))
    save_subnet(network, tmp_path / "a.subnet", network=WITH_NORMS)
    images = torch.randn(2, 3, 8, 8)
    logits = network.eval()(images)
    again = load_subnet(tmp_path / "a.subnet", masked=True)
    assert torch.equal(load_subnet(tmp_path / "a.subnet")(images), logits)
    assert torch.equal(again.eval()(images), logits)
    trained = [{name for name, each in net.named_parameters() if each.requires_grad} for net in (network, again)]
    assert trained[0] == trained[1] >= {"bn1.weight", "bn1.bias"}
    assert not torch.equal(again.get_parameter("bn1.weight"), torch.ones(2))
    frozen = ls.mask_(with_norms(), ls.EdgePopup(0.3))
    save_subnet(frozen, tmp_path / "b.subnet", network=WITH_NORMS)
    assert not load_subnet(tmp_path / "b.subnet", masked=True).get_parameter("bn1.weight").requires_grad


def test_frozen_edges_of_weights_that_came_with_the_network_have_their_own_seed(tmp_path: Path) -> None:
    network = ls.mask_(with_norms(), ls.PartiallyFrozen(0.3), weights=None, seed=9)
    save_subnet(network, tmp_path / "a.subnet", network=WITH_NORMS)
    again = load_subnet(tmp_path / "a.subnet", masked=True)
    for name, weight in ls.masked_weights(network).items():
        here = ls.masked_weights(again)[name]
        assert weight.frozen_edges
        assert here.frozen_edges
        assert torch.equal(here.frozen_edges.pattern, weight.frozen_edges.pattern)
        assert torch.equal(here.mask(), weight.mask())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("levels", None, "levels without signs"),
        ("levels", [{"kept": 1, "code": "packed"}] * 127, "more than 126 levels"),
        ("levels", [{"kept": 1}], "has no 'code'"),
        ("levels", [{"kept": 0, "code": "packed"}] * 2, r"the level2 of 'conv1.weight' keeps \d+ weights instead of 0"),
        ("flipped", {"kept": -1, "code": "packed"}, r"the flipped of 'conv1.weight' keeps \d+ weights instead of -1"),
        ("flipped", {"kept": 1, "code": "morse"}, "unknown mask code 'morse'"),
        ("frozen", {"always": 10**9, "never": 0, "seed": 0, "stream": ""}, "cannot freeze"),
        ("frozen", {"always": 0, "never": -1, "seed": 0, "stream": ""}, "cannot freeze"),
        ("frozen", {"always": 0, "never": 0, "seed": 0, "stream": ""}, "not as long as its layer"),
        ("frozen", None, "not as long as its layer"),
    ],
)
def test_a_multiplier_that_fits_no_layer_is_refused(key: str, value: Any, message: str, tmp_path: Path) -> None:
    network = ls.mask_(with_norms(), ls.Multicoated(0.3, signed=True, frozen=0.5))
    save_subnet(network, tmp_path / "a.subnet", network=WITH_NORMS)
    with changed(tmp_path / "a.subnet") as (header, _):
        header["layers"]["conv1.weight"][key] = value
    for as_masked in (False, True):
        with pytest.raises(ls.UserError, match=message):
            load_subnet(tmp_path / "a.subnet", masked=as_masked)
