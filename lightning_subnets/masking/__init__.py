"""Masked weights: ``mask_``, ``unmask_``, the interface of a method, exact top-k and seeded draws.

Start reading at ``mask_`` in ``masked_network.py``. It takes five steps:

1. Plan: which parameters are weights (``maskable.py``), which of them are masked, and how many numbers of each are kept
   (``choice.py``).
2. Draw them, and set the other parameters: ``initialization.py``, ``other_parameters.py``.
3. Give them scores: ``method.py``, the interface that each file in ``methods/`` implements.
4. Install the masked class: ``masked_class.py``. ``masked_weight.py`` is one masked weight, and ``cached_weight.py``
   caches weight * mask. Its gradient is in ``straight_through.py``.
5. Prune, if the method chooses its masks before training: ``prune_at_init.py``.

``selection.py`` selects the k largest scores exactly (``radix_select.py`` on a GPU), ``allocation.py`` says how many
numbers of each weight are kept, and ``frozen_edges.py`` which are not searched. ``tensor_version.py`` tells whether a
cached product is outdated, and ``digest.py`` whether two networks are equal. Of the package, this room imports only
``errors``.
"""

from lightning_subnets.masking.masked_network import (
    density,
    install_masks_,
    invalidate_,
    mask_,
    temporarily_unmasked,
    unmask_,
)
from lightning_subnets.masking.masked_weight import (
    MaskedWeight,
    Origin,
    is_masked,
    masked_weights,
    masks,
    raw_weight,
)

__all__ = [
    "MaskedWeight",
    "Origin",
    "density",
    "install_masks_",
    "invalidate_",
    "is_masked",
    "mask_",
    "masked_weights",
    "masks",
    "raw_weight",
    "temporarily_unmasked",
    "unmask_",
]
