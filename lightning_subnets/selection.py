"""The exact k largest of a tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_subnets.errors import UserError


def top_k(scores: Tensor, k: int) -> Tensor:
    """Boolean mask of the k largest scores; of equal scores the one with the lowest flat index is in.

    Exactly k entries are True, the same ones on every device. Infinities are ordered as numbers,
    -0.0 equals 0.0.

    Args:
        scores: any shape, any floating dtype.
        k: number selected, 0 <= k <= scores.numel().

    Raises:
        ValueError: if k is out of range, or a score on a CPU is NaN. A GPU is not waited for: there NaN
            sorts as the largest number, and the training module looks for it at its logging interval.
    """
    if not 0 <= k <= scores.numel():
        raise ValueError(f"k = {k} is outside 0 to {scores.numel()}, the number of scores")
    flat = scores.detach().reshape(-1)
    selected = _on_cpu(flat, k) if flat.device.type == "cpu" else _on_device(flat, k)
    return selected.view(scores.shape)


def _on_cpu(flat: Tensor, k: int) -> Tensor:
    """By NumPy's introselect: linear in the number of scores."""
    # NumPy has no bfloat16; float32 holds every half-precision number, in the same order.
    array = (flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat).numpy()
    if np.isnan(array).any():
        raise UserError("a score is NaN")
    if k == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    cut = array.size - k
    threshold = np.partition(array, cut)[cut]
    selected = array >= threshold
    surplus = int(np.count_nonzero(selected)) - k
    if surplus:
        ties = np.flatnonzero(array == threshold)
        selected[ties[-surplus:]] = False
    return torch.from_numpy(selected)


def _on_device(flat: Tensor, k: int) -> Tensor:
    """By a stable sort, whose result never has to be waited for."""
    order = torch.sort(flat, descending=True, stable=True).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(0, order[:k], True)
