"""Digests that tell whether weights are the same, to the bit."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_subnets.masking import masked_network


def weights_digest(network: nn.Module, *, frozen: bool = False) -> str:
    """SHA-256 of every parameter but the scores: name, dtype, shape and bytes, in hexadecimal.

    The same for the same weights on every device and in every memory format; any changed bit changes it.

    Args:
        frozen: only of those that are not trained.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(weights(network, frozen=frozen).items()):
        update_(digest, name, parameter)
    return digest.hexdigest()


def weights(network: nn.Module, *, frozen: bool = False) -> dict[str, nn.Parameter]:
    """Return every parameter but the scores, by name.

    Args:
        frozen: only those that are not trained. Frozen scores are masks, and are left out as well.
    """
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if name.rpartition(".")[2] != "scores" and not (frozen and parameter.requires_grad)
    }


def update_(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Take a tensor in: name, dtype, shape and bytes."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(_bytes(tensor).data)


def fingerprints(network: nn.Module) -> dict[str, Tensor]:
    """Return the fingerprints of all parameters, and of each layer's mask as ``<layer>.mask``."""
    found = {name: fingerprint(parameter) for name, parameter in network.named_parameters()}
    masks = masked_network.masks(network)
    return found | {f"{name}.mask": fingerprint(mask) for name, mask in masks.items()}


def fingerprint(tensor: Tensor) -> Tensor:
    """64 bits of a tensor's values, made on its device without waiting for it.

    f = sum over j of mix(w_j + j c) mod 2^64: w_j is the j-th eight bytes of the values in their logical order, filled
    up with zeros; c is odd; mix, the last step of SplitMix64, takes words to words one to one, and each bit changes
    all. Integers wrap around and add up in any order, so f is the same on every device. Two tensors of a shape that
    differ in one word never have the same f; two that differ in more have it by chance with probability 2^-64. Against
    one who looks for two such tensors it is no defence.

    Returns: int64, of no dimension.
    Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators", section 5, by the
        constants of Java's SplittableRandom (Stafford's variant 13).
    """
    bytes_ = tensor.detach().contiguous().view(-1).view(torch.uint8)
    words = functional.pad(bytes_, (0, -len(bytes_) % 8)).view(torch.int64)
    mixed = torch.arange(len(words), device=words.device).mul_(_GOLDEN).add_(words)
    for shift, factor in _MIX:
        # Shifts of signed integers bring ones in, which are taken away.
        mixed.bitwise_xor_((mixed >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    return mixed.sum()


def _bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    flat = tensor.detach().cpu().flatten()
    if flat.stride() != (1,):  # a slice of one number keeps its own
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy()  # reinterpreted, for NumPy has no bfloat16


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)  # odd, 2^64 divided by the golden ratio
_MIX = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)), (31, 1))
