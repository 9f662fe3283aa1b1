"""The weights of a layer are restored to the bit, from as few bytes as possible."""

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


def round_trip(weight: Tensor, effective: Tensor, mask: Tensor, drawn: Tensor | None) -> tuple[Layer, Tensor]:
    """Return the layer's header entry, and w_eff after decoding."""
    layer, stored, _ = encode(weight, effective, mask, drawn)
    out = torch.full_like(weight, 7)
    if stored is None:
        assert drawn is not None
        out.copy_(drawn)
    else:
        decode(layer, stored, mask, out)
        assert not out[~mask].any()
    apply_(layer, out, mask)
    return layer, out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["as they are", "gain", "sign"])
def test_every_form_is_restored(form: str, dtype: torch.dtype) -> None:
    for weight, stored in ((WEIGHT.to(dtype), "values"), (BINARY.to(dtype), "signs")):
        gain = torch.tensor(6 / 4 if form == "gain" else 2.25).to(dtype)
        used = {"as they are": weight, "gain": weight * gain, "sign": weight.sign() * gain}[form]
        for drawn in (weight.clone(), None):
            layer, found = round_trip(weight, used * MASK, MASK, drawn)
            assert layer.weights == (stored if drawn is None else "drawn")
            assert torch.equal(found, used * MASK)
            assert (layer.gain is None) == (form == "as they are")
            assert layer.kept == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_gain_of_a_scaled_mask_is_found_in_every_precision(dtype: torch.dtype) -> None:
    weight = torch.tensor([[0.3, -1.7, 2.1, 0.9, -0.4, 1.1, 5.0]], dtype=dtype)
    mask = torch.tensor([[True, True, False, True, False, False, False]])  # 7 / 3 is exact in none
    effective = ls.Supermask(0.3, dynamic_scaling=True).effective_weight(weight, mask)
    layer, found = round_trip(weight, effective, mask, weight.clone())
    assert (layer.weights, layer.of) == ("drawn", "weight")
    assert layer.gain == pytest.approx(7 / 3, rel=1e-2)
    assert torch.equal(found, effective)


def test_dropped_weights_that_differ_from_the_drawn_ones_are_stored_as_zeros() -> None:
    drawn = WEIGHT.clone()
    drawn[0, 2] = 9
    layer, stored, _ = encode(WEIGHT, WEIGHT * MASK, MASK, drawn)
    assert layer.weights == "values"
    assert stored is not None
    assert torch.equal(stored, WEIGHT[MASK])


def test_an_unknown_function_of_the_weights_is_stored_by_its_values() -> None:
    layer, found = round_trip(WEIGHT, WEIGHT.square() * MASK, MASK, WEIGHT)
    assert (layer.weights, layer.gain, layer.of) == ("values", None, "weight")
    assert torch.equal(found, WEIGHT.square() * MASK)


def test_a_layer_that_keeps_nothing_or_everything_is_restored() -> None:
    for mask in (torch.zeros_like(MASK), torch.ones_like(MASK)):
        for weight in (WEIGHT, BINARY):
            assert torch.equal(round_trip(weight, weight * mask, mask, None)[1], weight * mask)


def test_signs_take_a_bit_each() -> None:
    layer, stored, _ = encode(BINARY, BINARY * MASK, MASK, None)
    assert (layer.weights, layer.magnitude) == ("signs", 0.5)
    assert stored is not None
    assert stored.tolist() == [0b01100000]


@pytest.mark.parametrize(
    ("weights", "stored", "message"),
    [
        ("signs", torch.zeros(2, dtype=torch.uint8), r"shape \(2,\), expected torch.uint8 and \(1,\)"),
        ("signs", torch.zeros(1, dtype=torch.int8), "has signs of torch.int8"),
        ("signs", torch.zeros(1, 1, dtype=torch.uint8), r"shape \(1, 1\)"),
        ("signs", torch.tensor([0b00001000], dtype=torch.uint8), "followed by extra bits"),
        ("values", torch.zeros(5), r"shape \(5,\), expected torch.float32 and \(4,\)"),
        ("values", torch.zeros(2, 2), r"shape \(2, 2\)"),
        ("values", torch.zeros(4, dtype=torch.float16), "has values of torch.float16"),
        ("values", torch.tensor(1.0), r"shape \(\)"),
    ],
)
def test_other_tensors_are_refused(weights: str, stored: Tensor, message: str) -> None:
    layer = Layer([2, 3], kept=4, weights=weights, magnitude=1.0)  # type: ignore[arg-type]
    with pytest.raises(ls.UserError, match=message):
        decode(layer, stored, MASK, torch.empty(2, 3))
