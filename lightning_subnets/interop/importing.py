"""Masked networks from other programs' files: edge-popup's public checkpoints, and plain masks."""

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
    """Make a plain network the masked one that is in a file from elsewhere, in place.

    The file is a torch file or a safetensors file, and the names in it tell what it is:

    - ``conv1.scores``, for every layer, is a subnetwork as edge-popup's public code leaves it. The mask of a layer is
      that of its k largest |scores|, and the method ``EdgePopup(density)``. Of scores that tie at the k-th, and only of
      those, the public code may keep others: it sorts, and this package takes the first.
    - ``conv1``, ``conv1.mask``, ``conv1.weight_mask`` (torch.nn.utils.prune), or ``conv1.scores`` of zeros and ones
      alone (the public code, when it trains weights under a mask) are masks, and the method is ``FixedMask``. A layer
      without a mask is kept whole, as the last one often is.

    Beside them stand all the weights, ``conv1.weight`` or ``conv1.weight_orig``, and all running statistics of norms;
    or no weights, which are then drawn, and all statistics or none. What else the file lacks is neutral: biases are 0,
    norms scale by 1 and shift by 0, statistics are those of a norm that has seen nothing.

    A 1x1 convolution stands for a Linear. The public Conv2 to Conv8 and ResNets for CIFAR are those of this package,
    the latter ``small_stem_resnet``; their other names for layers are known.

    Args:
        network: built as that of the file, and not masked.
        density: fraction of the weights kept, which scores do not say; the public code's ``prune_rate``.
        weights: distribution to draw them from where the file has none, see ``initialization.draw_weights``.
        seed: of the weights that are drawn.

    Returns: the same network.
    Raises:
        ValueError: if the file cannot be read, is of another network, lacks something or has it twice, has masks of
            other numbers than 0 and 1, or NaN; if density or weights are missing, or given for a file that says them;
            or if the network cannot be masked. The network is then as it was.
    """
    layout = layout_of(tensor_file.read(path), network)
    if layout.has_weights and weights is not None:
        raise UserError(f"the file has its weights, and none are drawn: leave out weights = {weights!r}")
    if not layout.has_weights and weights is None:
        raise UserError("the file has no weights: say what to draw them from, weights = 'signed_constant' for instance")
    method = _method(layout, density, network)
    masking.mask_(network, method, weights=weights, seed=seed)
    scores = {f"{name}.scores": each for name, each in layout.scores.items() if isinstance(method, EdgePopup)}
    masking.make_affine_neutral_(network)  # all that the file lacks
    network.load_state_dict(layout.state | scores, strict=False)
    return network


def _method(layout: Layout, density: float | None, network: nn.Module) -> Method:
    """By which the network has the masks of the file.

    Raises:
        ValueError: if masks have other numbers than 0 and 1, scores cannot be ranked as they are, or the density is
            missing, out of range or too much.
    """
    if not layout.masks and not all(map(_is_binary, layout.scores.values())):
        if density is None:
            raise UserError("the file has scores, which do not say how many are kept: set density, 0.3 for 30 %")
        for name, scores in layout.scores.items():
            if scores.dtype not in (torch.float32, torch.bfloat16, torch.float16):
                raise UserError(
                    f"the scores of {name} are of {scores.dtype}, which would be rounded: save them as float32"
                )
            if scores.isnan().any():
                raise UserError(f"a score of {name} is NaN in the file, whose training diverged: take an earlier one")
        return EdgePopup(density)
    if density is not None:
        raise UserError(f"the file has masks, which say how many weights are kept: leave out density = {density}")
    masks = layout.masks or layout.scores
    for name, mask in masks.items():
        if not _is_binary(mask):
            raise UserError(f"the mask of {name} has other numbers than 0 and 1: save what it keeps as 1")
    whole = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in maskable_layers(network).items()}
    return FixedMask(whole | {name: mask != 0 for name, mask in masks.items()})


def _is_binary(tensor: Tensor) -> bool:
    # What torch takes for a bool is a byte in the file, and may be any.
    numbers = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
    return bool(((numbers == 0) | (numbers == 1)).all())
