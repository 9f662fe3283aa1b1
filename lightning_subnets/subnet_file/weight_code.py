"""Encode a weight in as few bytes as restore them to the bit.

A module computes with the effective weight w_eff, a function of its weight w and its mask. A file restores both:
w_eff runs the network, and training continues from w. The file stores w as

    drawn    nothing, because the seed gives w
    signs    a magnitude, and one bit per kept weight: +magnitude or -magnitude; the other weights are 0
    values   each kept weight; the other weights are 0

If the mask is 1, w_eff is

    w * m               for most methods, m of ``multiplier_code``
    gain * w            for a ``Supermask`` with dynamic scaling
    gain * sign(w)      for ``Biprop``
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking.method import as_mask
from lightning_subnets.subnet_file.header import Layer


def encode(
    weight: Tensor, effective: Tensor, multiplier: Tensor, drawn: Tensor | None
) -> tuple[Layer, Tensor | None, Tensor]:
    """Return a layer's entry in the header, without the mask's code; the flat tensor to store, if any; and m.

    ``drawn`` holds the weights that the seed gives, if there is a seed. All tensors are on the CPU. ``torch.equal``
    means equal to the bit, except that +0 equals -0.
    """
    mask = as_mask(multiplier)
    layer = Layer(shape=list(weight.shape), kept=int(mask.count_nonzero()))
    if not torch.equal(effective, weight * multiplier):
        kept, used = weight[mask], effective[mask]
        # ``Supermask`` divides in this dtype; the quotient of two integers would be a float32.
        number = mask.sum(dtype=torch.promote_types(used.dtype, torch.float32)).clamp(min=1)
        scale = (mask.numel() / number).to(used)
        if torch.equal(used, kept * scale):
            layer.gain = float(scale)
        elif torch.equal(used, kept.sign() * (gain := used[:1].abs())) and gain.isfinite():
            layer.gain, layer.of = float(gain), "sign"
        else:  # a method of another package: only w_eff is stored
            weight, multiplier = effective, mask
    if drawn is not None and torch.equal(weight, drawn):
        return layer, None, multiplier
    kept = weight[mask]
    magnitude = kept[:1].abs()
    # The header has no infinity, so weights that have diverged to it are stored as values.
    if len(kept) and magnitude.isfinite() and torch.equal(kept.abs(), magnitude.expand_as(kept)):
        layer.weights, layer.magnitude = "signs", float(magnitude)
        return layer, torch.from_numpy(np.packbits(kept.signbit().numpy())), multiplier
    layer.weights = "values"
    return layer, kept, multiplier


def decode(layer: Layer, stored: Tensor, mask: Tensor, out: Tensor) -> None:
    """Write w into ``out`` from stored signs or values, after checking their number and dtype."""
    expected = (torch.uint8, -(-layer.kept // 8)) if layer.weights == "signs" else (out.dtype, layer.kept)
    if (stored.dtype, stored.numel()) != expected or stored.dim() != 1:
        raise UserError(
            f"a layer has {layer.weights} of {stored.dtype} and shape {tuple(stored.shape)}, "
            f"expected {expected[0]} and ({expected[1]},)"
        )
    if layer.weights == "signs":
        assert layer.magnitude is not None
        negative = np.unpackbits(stored.numpy()).view(np.bool_)
        if negative[layer.kept :].any():
            raise UserError("the signs of a layer are followed by extra bits")
        magnitude = torch.tensor(layer.magnitude, dtype=out.dtype, device="cpu")
        stored = torch.where(torch.from_numpy(negative[: layer.kept]), -magnitude, magnitude)
    out.zero_()[mask.to(out.device)] = stored.to(out.device)


@torch.no_grad()
def apply_(layer: Layer, weight: Tensor, multiplier: Tensor) -> None:
    """Turn w into w_eff in place."""
    if layer.of == "sign":
        weight.sign_()
    if layer.gain is not None:
        weight.mul_(torch.tensor(layer.gain, dtype=weight.dtype, device=weight.device))
    weight.mul_(multiplier.to(weight.device))
