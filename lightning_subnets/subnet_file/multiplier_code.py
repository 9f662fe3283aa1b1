"""Encode the m of a weight, w_eff = w * m: the mask, and what the searched edges choose beside it.

Every part is a mask in the code of ``mask_codec``, over fewer and fewer edges:

    mask      m != 0                  over all edges, or over the searched ones if a share is frozen
    level2    |m| >= 2                over the edges above
    level3    |m| >= 3                over the edges of level2, and so on
    flipped   m < 0                   over the edges of mask

If m is only 0 and 1, there is only ``mask``. Frozen edges have an m of 0 or 1 that follows from the seed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking.frozen_edges import FrozenEdges
from lightning_subnets.subnet_file import mask_codec
from lightning_subnets.subnet_file.header import Frozen, Layer, Part

Integers = npt.NDArray[np.int8]


def encode(layer: Layer, multiplier: Tensor, frozen: FrozenEdges | None) -> dict[str, Tensor]:
    """Write into the layer how its m is encoded; return the tensors by the name of their part."""
    values: Integers = multiplier.flatten().to(torch.int8).numpy()
    if frozen:
        layer.frozen = stated(frozen)
        values = values[frozen.pattern.cpu().flatten().numpy() == 0]
    masks = {"mask": values != 0}
    if multiplier.dtype != torch.bool:
        magnitudes = np.abs(values[values != 0])
        for level in range(2, int(magnitudes.max(initial=1)) + 1):
            magnitudes = magnitudes[magnitudes >= level - 1]
            masks[_level(level)] = magnitudes >= level
        masks["flipped"] = values[values != 0] < 0
    coded = {part: mask_codec.encode(mask) for part, mask in masks.items()}
    parts = {part: Part(int(np.count_nonzero(masks[part])), code) for part, (code, _) in coded.items()}
    layer.code = parts.pop("mask").code
    if multiplier.dtype != torch.bool:
        layer.flipped, layer.levels = parts.pop("flipped"), list(parts.values())
    # NumPy, because torch.frombuffer refuses the empty code of a part without edges
    return {part: torch.from_numpy(np.frombuffer(data, np.uint8).copy()) for part, (_, data) in coded.items()}


def stated(frozen: FrozenEdges) -> Frozen:
    """Return the entry of frozen edges in the header."""
    return Frozen(frozen.always, frozen.never, frozen.seed, frozen.stream)


def decode(layer: Layer, name: str, take: Callable[[str], Tensor]) -> Tensor:
    """Return the m of a weight, boolean or int8, from the tensors that ``take`` gives by the name of their part."""

    def mask(what: str, part: Part, size: int) -> mask_codec.Bits:
        data = take(what)
        if data.dtype != torch.uint8 or data.dim() != 1:
            raise UserError(f"the {what} of {name!r:.100} has dtype {data.dtype} and {data.dim()} dimensions")
        found = mask_codec.decode(part.code, data.numpy().tobytes(), size)
        if (kept := int(np.count_nonzero(found))) != part.kept:
            raise UserError(f"the {what} of {name!r:.100} keeps {kept} weights instead of {part.kept}")
        return found

    whole = np.zeros(layer.size, np.int8)
    always, searched = 0, slice(None)
    if layer.frozen:
        pattern = FrozenEdges.draw(torch.Size(layer.shape), **vars(layer.frozen)).pattern.flatten().numpy()
        whole, searched, always = np.maximum(pattern, 0), pattern == 0, layer.frozen.always
    values: Integers = mask("mask", Part(layer.kept - always, layer.code), whole[searched].size).astype(np.int8)
    outer = np.flatnonzero(values)
    negative = outer[mask("flipped", layer.flipped, len(outer))] if layer.flipped else outer[:0]
    for level, part in enumerate(layer.levels or (), 2):
        outer = outer[mask(_level(level), part, len(outer))]
        values[outer] = level
    values[negative] *= -1
    whole[searched] = values
    found = torch.from_numpy(whole).view(layer.shape)
    return found if layer.flipped else found.to(torch.bool)


def _level(level: int) -> str:
    return f"level{level}"
