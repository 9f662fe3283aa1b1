"""The weights of a layer come back to the bit, from as little as they need."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import lightning_subnets as ls
from lightning_subnets.subnet_file.header import Layer
from lightning_subnets.subnet_file.weight_code import apply_, decode, encode

WEIGHT = torch.tensor([[0.5, -1.5, 2.0], [-0.25, 3.0, -4.0]])
MASK = torch.tensor([[True, True, False], [False, True, True]])
BINARY = torch.tensor([[0.5, -0.5, 0.5], [-0.5, -0.5, 0.5]])


def there_and_back(weight: Tensor, effective: Tensor, mask: Tensor, drawn: Tensor | None) -> tuple[Layer, Tensor]:
    """What the header says, and w_eff as it is read again."""
    layer, stored = encode(weight, effective, mask, drawn)
    out = torch.full_like(weight, 7)
    if stored is None:
        assert drawn is not None
        out.copy_(drawn)
    else:
        decode(layer, stored, mask, out)
        assert torch.equal(out[mask], weight[mask])
        assert not out[~mask].any()
    apply_(layer, out, mask)
    return layer, out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weight", [WEIGHT, BINARY], ids=["any", "binary"])
@pytest.mark.parametrize("form", ["as they are", "gain", "sign"])
@pytest.mark.parametrize("is_drawn", [True, False])
def test_every_form_comes_back(form: str, weight: Tensor, is_drawn: bool, dtype: torch.dtype) -> None:
    form_of_these = "signs" if weight is BINARY else "values"
    weight = weight.to(dtype)
    gain = torch.tensor(6 / 4 if form == "gain" else 2.25).to(dtype)
    kept = {"as they are": weight, "gain": weight * gain, "sign": weight.sign() * gain}[form]
    layer, found = there_and_back(weight, kept * MASK, MASK, weight.clone() if is_drawn else None)
    assert layer.weights == ("drawn" if is_drawn else form_of_these)
    assert torch.equal(found, kept * MASK)
    assert (layer.gain is None) == (form == "as they are")
    assert layer.kept == 4


def test_weights_that_differ_from_the_drawn_ones_where_nothing_is_kept_are_written_down() -> None:
    drawn = WEIGHT.clone()
    drawn[0, 2] = 9
    layer, stored = encode(WEIGHT, WEIGHT * MASK, MASK, drawn)
    assert layer.weights == "values"
    assert stored is not None
    assert torch.equal(stored, WEIGHT[MASK])


def test_weights_used_in_a_way_of_their_own_are_written_down_as_they_are_used() -> None:
    layer, found = there_and_back_of_other()
    assert (layer.weights, layer.gain, layer.of) == ("values", None, "weight")
    assert torch.equal(found, WEIGHT.square() * MASK)


def there_and_back_of_other() -> tuple[Layer, Tensor]:
    layer, stored = encode(WEIGHT, WEIGHT.square() * MASK, MASK, WEIGHT)
    assert stored is not None
    out = torch.empty_like(WEIGHT)
    decode(layer, stored, MASK, out)
    apply_(layer, out, MASK)
    return layer, out


@pytest.mark.parametrize("mask", [torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)])
def test_a_layer_that_keeps_nothing_or_all_comes_back(mask: Tensor) -> None:
    for weight in (WEIGHT, BINARY):
        _, found = there_and_back(weight, weight * mask, mask, None)
        assert torch.equal(found, weight * mask)


def test_signs_take_a_bit_each() -> None:
    layer, stored = encode(BINARY, BINARY * MASK, MASK, None)
    assert (layer.weights, layer.magnitude) == ("signs", 0.5)
    assert stored is not None
    assert stored.tolist() == [0b01100000]


@pytest.mark.parametrize(
    ("weights", "stored", "message"),
    [
        ("signs", torch.zeros(2, dtype=torch.uint8), "has 2 signs of torch.uint8 and should have 1 of torch.uint8"),
        ("signs", torch.zeros(1, dtype=torch.int8), "has 1 signs of torch.int8 and should have 1 of torch.uint8"),
        ("signs", torch.zeros(1, 1, dtype=torch.uint8), "has 1 signs"),
        ("signs", torch.tensor([0b00001000], dtype=torch.uint8), "followed by bits that belong to nothing"),
        ("values", torch.zeros(5), "has 5 values of torch.float32 and should have 4 of torch.float32"),
        ("values", torch.zeros(3), "has 3 values"),
        ("values", torch.zeros(2, 2), "has 4 values"),
        ("values", torch.zeros(4, dtype=torch.float16), "has 4 values of torch.float16 and should have 4"),
        ("values", torch.tensor(1.0), "has 1 values"),
    ],
)
def test_what_does_not_fit_is_refused(weights: str, stored: Tensor, message: str) -> None:
    layer = Layer([2, 3], kept=4, weights=weights, magnitude=1.0)  # type: ignore[arg-type]
    with pytest.raises(ls.UserError, match=message):
        decode(layer, stored, MASK, torch.empty(2, 3))
