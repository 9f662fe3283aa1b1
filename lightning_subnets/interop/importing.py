"""Turn a plain network into the subnetwork of another program's file: edge-popup's public checkpoints, plain masks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.interop import tensor_file
from lightning_subnets.interop.layouts import Layout, layout_of
from lightning_subnets.masking.maskable import maskable_layers
from lightning_subnets.masking.method import Method
from lightning_subnets.methods import EdgePopup, FixedMask


def import_subnet_(
    path: str | Path,
    network: nn.Module,
    *,
    density: float | None = None,
    weights: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """Turn a plain network, in place, into the masked network of a torch file or a safetensors file.

    The names of the tensors decide between two kinds of file:

    - Scores: ``conv1.scores`` for every layer, as edge-popup's public code saves them. The method becomes
      ``EdgePopup(density)``, which keeps each layer's k largest |scores|. If scores tie at the k-th place, this package
      keeps the first of them; the public code may keep others.
    - Masks: ``conv1``, ``conv1.mask``, ``conv1.weight_mask`` (torch.nn.utils.prune), or ``conv1.scores`` with zeros and
      ones only (the public code, if it trains weights under a mask). The method becomes ``FixedMask``. A layer without
      a mask keeps all its weights.

    The file also has either all weights (``conv1.weight`` or ``conv1.weight_orig``) and all running statistics of
    norms; or no weights, which are then drawn, and all running statistics or none. Everything else that the file lacks
    becomes neutral: biases 0, norms with scale 1, shift 0 and fresh statistics.

    A 1x1 convolution in the file matches a Linear in the network. The public code's layer names are understood for its
    Conv2 to Conv8, which are the networks of this package, and its CIFAR ResNets, which are ``small_stem_resnet``.

    Args:
        path: the file.
        network: plain, built like the network of the file.
        density: fraction of the weights kept, which scores do not say; ``prune_rate`` in the public code.
        weights: distribution to draw from if the file has no weights, see ``initialization.draw_weights``.
        seed: of the weights that are drawn.

    Returns:
        The same network.

    Raises:
        ValueError: if the file cannot be read, belongs to another network, lacks a tensor or has one twice, or contains
            NaN or masks with numbers other than 0 and 1; if density or weights are missing, or contradict the file; or
            if the network cannot be masked. The network is then unchanged.
    """
    layout = layout_of(tensor_file.read(path), network)
    if layout.has_weights and weights is not None:
        raise UserError(f"the file has weights, so none are drawn: leave out weights = {weights!r}")
    if not layout.has_weights and weights is None:
        raise UserError("the file has no weights: name a distribution to draw them from, weights = 'signed_constant'")
    method = _method(layout, density, network)
    masking.mask_(network, method, weights=weights, seed=seed)
    scores = {f"{name}.scores": each for name, each in layout.scores.items() if isinstance(method, EdgePopup)}
    masking.make_affine_neutral_(network)
    network.load_state_dict(layout.state | scores, strict=False)
    return network


def _method(layout: Layout, density: float | None, network: nn.Module) -> Method:
    """Return the method under which the network has the masks of the file."""
    if not layout.masks and not all(map(_is_binary, layout.scores.values())):
        if density is None:
            raise UserError("the file has scores, which do not say how many weights are kept: set density, e.g. 0.3")
        for name, scores in layout.scores.items():
            if scores.dtype not in (torch.float32, torch.bfloat16, torch.float16):
                raise UserError(f"the scores of {name} are {scores.dtype} and would be rounded: save them as float32")
            if scores.isnan().any():
                raise UserError(f"the scores of {name} contain NaN, so its training diverged: use an earlier file")
        return EdgePopup(density)
    if density is not None:
        raise UserError(f"the file has masks, which fix how many weights are kept: leave out density = {density}")
    masks = layout.masks or layout.scores
    for name, mask in masks.items():
        if not _is_binary(mask):
            raise UserError(f"the mask of {name} has numbers other than 0 and 1: save 1 for each weight that is kept")
    whole = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in maskable_layers(network).items()}
    return FixedMask(whole | {name: mask != 0 for name, mask in masks.items()})


def _is_binary(tensor: Tensor) -> bool:
    # In a file, a bool is a byte with any of 256 values.
    numbers = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
    return bool(((numbers == 0) | (numbers == 1)).all())
