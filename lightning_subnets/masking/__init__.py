"""Masked weights: ``mask_``, ``unmask_``, the interface of a method, exact top-k and seeded draws.

Read from the top: ``mask_`` in ``masked_network.py`` takes five steps, and each one calls modules below it.

1. Find the weights: ``maskable.py``.
2. Draw them: ``initialization.py``.
3. Give them scores: ``method.py``, the interface that each file in ``methods/`` implements.
4. Install the masked class: ``masked_layer.py``, with its gradient in ``straight_through.py`` and its cache of
   weight * mask in ``cached_weight.py``.
5. Prune, if the method chooses its masks before training: ``prune_at_init.py``.

Masks come from ``selection.py`` (the exact k largest; on a GPU ``radix_select.py``), and ``allocation.py`` says how
many weights each layer keeps. This room imports nothing of the package but ``errors``.
"""

from lightning_subnets.masking.masked_layer import (
    MaskedConv2d,
    MaskedLayer,
    MaskedLinear,
    Origin,
    masked_layers,
    masks,
    temporarily_unmasked,
)
from lightning_subnets.masking.masked_network import (
    density,
    install_masks_,
    invalidate_,
    make_affine_neutral_,
    mask_,
    unmask_,
)

__all__ = [
    "MaskedConv2d",
    "MaskedLayer",
    "MaskedLinear",
    "Origin",
    "density",
    "install_masks_",
    "invalidate_",
    "make_affine_neutral_",
    "mask_",
    "masked_layers",
    "masks",
    "temporarily_unmasked",
    "unmask_",
]
