"""The weights of a layer in as few bytes as give them back to the bit.

A masked layer computes with w_eff, made of its weights w by the mask, and both are wanted: w_eff to run the network, w
to go on training. Of w, the file has

    drawn    nothing: the seed gives them
    signs    a magnitude, and a bit for each weight that is kept: +magnitude or -magnitude
    values   each weight that is kept; the others are 0

and w_eff is, where the mask is 1,

    w                   of most methods
    gain * w            of a ``Supermask`` with dynamic scaling
    gain * sign(w)      of ``Biprop``
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.subnet_file.header import Layer


def encode(weight: Tensor, effective: Tensor, mask: Tensor, drawn: Tensor | None) -> tuple[Layer, Tensor | None]:
    """What the header says of a layer's weights, and what the file has of them.

    Args:
        weight, effective, mask: w, w_eff and the mask, on the CPU.
        drawn: the weights that the seed gives, where w came from one.

    Returns: what the header says, but for the mask's code; and a flat tensor where the file has one.
    """
    layer = Layer(shape=list(weight.shape), kept=int(mask.count_nonzero()))
    if not _same(effective, weight * mask):
        kept, used = weight[mask], effective[mask]
        scale = (mask.numel() / mask.sum().clamp(min=1)).to(used)
        if _same(used, kept * scale):
            layer.gain = float(scale)
        elif _same(used, kept.sign() * (gain := used[:1].abs())):
            layer.gain, layer.of = float(gain), "sign"
        else:  # of a method from elsewhere: as it is used
            weight = effective
    if drawn is not None and _same(weight, drawn):
        return layer, None
    kept = weight[mask]
    magnitude = kept[:1].abs()
    if len(kept) and _same(kept.abs(), magnitude.expand_as(kept)):
        layer.weights, layer.magnitude = "signs", float(magnitude)
        return layer, torch.from_numpy(np.packbits(kept.signbit().numpy()))
    layer.weights = "values"
    return layer, kept


def decode(layer: Layer, stored: Tensor, mask: Tensor, out: Tensor) -> None:
    """Write w into ``out``, of the layer's shape and precision, from the signs or values that the file has.

    Raises:
        ValueError: if these are not as many as there have to be, or of another type.
    """
    wanted = (torch.uint8, -(-layer.kept // 8)) if layer.weights == "signs" else (out.dtype, layer.kept)
    if (stored.dtype, stored.numel()) != wanted or stored.dim() != 1:
        raise UserError(
            f"a layer has {stored.numel()} {layer.weights} of {stored.dtype} and should have {wanted[1]} of {wanted[0]}"
        )
    if layer.weights == "signs":
        assert layer.magnitude is not None
        negative = np.unpackbits(stored.numpy()).view(np.bool_)
        if negative[layer.kept :].any():
            raise UserError("the signs of a layer are followed by bits that belong to nothing")
        magnitude = torch.tensor(layer.magnitude, dtype=out.dtype)
        stored = torch.where(torch.from_numpy(negative[: layer.kept]), -magnitude, magnitude)
    out.zero_()[mask.to(out.device)] = stored.to(out.device)


def apply_(layer: Layer, weight: Tensor, mask: Tensor) -> None:
    """w becomes w_eff, in place."""
    if layer.of == "sign":
        weight.sign_()
    if layer.gain is not None:
        weight.mul_(torch.tensor(layer.gain, dtype=weight.dtype))
    weight.mul_(mask.to(weight.device))


def _same(one: Tensor, other: Tensor) -> bool:
    """To the bit, but that +0 and -0 are the same."""
    return torch.equal(one, other)
