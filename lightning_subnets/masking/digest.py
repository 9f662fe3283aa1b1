"""Digests and fingerprints that tell whether tensors are equal to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_subnets.masking.masked_weight import masks, scores_names

# Constants of SplitMix64 as signed integers: 2^64 divided by the golden ratio, then (shift, factor) of each round.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64)), (31, 1))


def weights_digest(network: nn.Module, *, frozen: bool = False) -> str:
    """Return the SHA-256 of ``weights(network)``: name, dtype, shape and bytes, in hexadecimal.

    Equal weights have the same digest on every device and in every memory format; any changed bit changes it.
    With ``frozen``, only the parameters that are not trained count.
    """
    return digest_of(weights(network, frozen=frozen))


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        update_(digest, name, tensors[name])
    return digest.hexdigest()


def weights(network: nn.Module, *, frozen: bool = False) -> dict[str, nn.Parameter]:
    """Return every parameter of a masked or plain network but the scores, or only the frozen ones, by name."""
    scores = scores_names(network)
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if name not in scores and not (frozen and parameter.requires_grad)
    }


def update_(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Add a tensor to a digest: name, dtype, shape and bytes."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(_bytes(tensor.detach().cpu()).numpy().data)  # as bytes, because NumPy has no bfloat16


def _bytes(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor's values in logical order."""
    flat = tensor.flatten()
    if flat.stride() != (1,):  # a slice of one number keeps its own stride, which a view of its bytes refuses
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one shape are equal, with +0 different from -0."""
    return torch.equal(*(_bytes(each.detach().cpu()) for each in (one, other)))


def fingerprints(network: nn.Module) -> dict[str, Tensor]:
    """Return the fingerprint of each parameter by its name, and of each mask as ``<weight>.mask``."""
    found = {name: fingerprint(parameter) for name, parameter in network.named_parameters()}
    return found | {f"{name}.mask": fingerprint(mask) for name, mask in masks(network).items()}


def fingerprint(tensor: Tensor) -> Tensor:
    """Return 64 bits that identify a tensor's values, on its device, without waiting for the device.

    f = sum over j of mix(w_j + j c) mod 2^64, where w_j is the j-th group of eight bytes of the values in logical
    order, padded with zeros, c is odd, and mix, the last step of SplitMix64, is a bijection of 64-bit words. Integer
    sums do not depend on their order, so f is the same on every device. Two tensors of one shape that differ in one
    word never have the same f; if they differ in more, they have it with probability 2^-64. An adversary can construct
    two tensors with the same f.

    Returns: int64, of no dimension.
    Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators", section 5, with the
        constants of Java's SplittableRandom (Stafford's variant 13).
    """
    bytes_ = _bytes(tensor.detach())
    words = functional.pad(bytes_, (0, -len(bytes_) % 8)).view(torch.int64)
    mixed = torch.arange(len(words), device=words.device).mul_(_GOLDEN).add_(words)
    for shift, factor in _MIX:
        # A right shift of a negative integer shifts ones in; the bit mask clears them.
        mixed.bitwise_xor_((mixed >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    return mixed.sum()
