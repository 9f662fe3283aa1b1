"""Weights without their zeros."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_subnets.masking.maskable import MASKABLE


class CompressedRows(NamedTuple):
    """A weight as the matrix of its outputs by all else, (outputs, inputs * height * width), in compressed rows (CSR).

    Row r has ``values[crow_indices[r]:crow_indices[r + 1]]`` in the columns ``col_indices`` of the same range, and
    zeros elsewhere. Indices are int32, which MKL and SciPy compute with. With groups, inputs are those of one group.
    """

    crow_indices: Tensor
    col_indices: Tensor
    values: Tensor
    shape: torch.Size  # that the weight has in the network


def compressed_weights(network: nn.Module) -> dict[str, CompressedRows]:
    """The weights of convolutions and fully connected layers that have zeros, by their names in the state dict."""
    layers = {name: module for name, module in network.named_modules() if type(module) in MASKABLE}
    weights = {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}
    return {name: _rows(weight) for name, weight in weights.items() if not weight.all()}


def _rows(weight: Tensor) -> CompressedRows:
    matrix = weight.flatten(1)
    kept = matrix != 0
    crow_indices = nn.functional.pad(kept.sum(1).cumsum(0), (1, 0)).int()
    return CompressedRows(crow_indices, kept.nonzero()[:, 1].int(), matrix[kept], weight.shape)
