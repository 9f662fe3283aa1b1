"""The idea: masked weights, ``mask_`` and ``unmask_``, exact top-k, seeded draws, and the interface of a method."""

from lightning_subnets.masking.masked_network import (
    MASKED,
    MaskedConv2d,
    MaskedLayer,
    MaskedLinear,
    Origin,
    StraightThrough,
    begin_,
    density,
    make_affine_neutral_,
    mask_,
    masked_layers,
    unmask_,
)

__all__ = [
    "MASKED",
    "MaskedConv2d",
    "MaskedLayer",
    "MaskedLinear",
    "Origin",
    "StraightThrough",
    "begin_",
    "density",
    "make_affine_neutral_",
    "mask_",
    "masked_layers",
    "unmask_",
]
