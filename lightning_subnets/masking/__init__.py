"""Masked weights: ``mask_``, ``unmask_``, the interface of a method, exact top-k and seeded draws.

Start reading at ``mask_`` in ``masked_network.py``. It takes five steps:

1. Find the layers to mask: ``maskable.py``.
2. Draw their weights: ``initialization.py``.
3. Give them scores: ``method.py``, the interface that each file in ``methods/`` implements.
4. Install the masked class: ``masked_layer.py``, which caches weight * mask in ``cached_weight.py``.
5. Prune, if the method chooses its masks before training: ``prune_at_init.py``.

``selection.py`` selects the k largest scores exactly (``radix_select.py`` on a GPU), and ``allocation.py`` says how
many weights each layer keeps. Of the package, this room imports only ``errors``.
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
