"""Digests that tell whether weights are the same, to the bit."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of every parameter but the scores: name, dtype, shape and bytes, in hexadecimal.

    The same for the same weights on every device and in every memory format; any changed bit changes it.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(network.named_parameters()):
        if name.rpartition(".")[2] != "scores":
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
            digest.update(_bytes(parameter))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    # Reinterpreted as bytes, for NumPy has no bfloat16; copied, for a slice of one number keeps its stride.
    flat = tensor.detach().cpu().clone(memory_format=torch.contiguous_format).view(-1)
    return flat.view(torch.uint8).numpy().tobytes()
