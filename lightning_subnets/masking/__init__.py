"""The idea: masked weights, ``mask_`` and ``unmask_``, exact top-k, seeded draws, and the interface of a method.

Start with ``masked_network.py``, then ``masked_layer.py`` and ``method.py``. This room imports nothing of the package
but ``errors``.
"""

from lightning_subnets.masking.masked_layer import (
    MASKED,
    MaskedConv2d,
    MaskedLayer,
    MaskedLinear,
    Origin,
    StraightThrough,
)
from lightning_subnets.masking.masked_network import (
    density,
    install_masks_,
    invalidate_,
    make_affine_neutral_,
    mask_,
    masked_layers,
    masks,
    unmask_,
)

__all__ = [
    "MASKED",
    "MaskedConv2d",
    "MaskedLayer",
    "MaskedLinear",
    "Origin",
    "StraightThrough",
    "density",
    "install_masks_",
    "invalidate_",
    "make_affine_neutral_",
    "mask_",
    "masked_layers",
    "masks",
    "unmask_",
]
