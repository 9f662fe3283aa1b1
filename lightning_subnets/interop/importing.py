"""Turn a plain network into the subnetwork of another program's file: edge-popup's public checkpoints, plain masks."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.interop import tensor_file
from lightning_subnets.masking.maskable import maskable_layers
from lightning_subnets.masking.method import Method
from lightning_subnets.methods import EdgePopup, FixedMask
from lightning_subnets.training.checkpoint import check_shapes


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
    becomes neutral: biases become 0, and norms have scale 1, shift 0 and initial statistics.

    A 1x1 convolution in the file matches a Linear in the network. The public code's layer names are understood for its
    Conv2 to Conv8, which are the networks of this package, and its CIFAR ResNets, which are ``small_stem_resnet``.

    Args:
        path: the file.
        network: plain, built like the network of the file.
        density: fraction of the weights kept, if the file has scores; ``prune_rate`` in the public code.
        weights: distribution to draw from if the file has no weights, see ``initialization.draw_weights``.
        seed: of the weights that are drawn.

    Returns: the same network.

    Raises:
        ValueError: if the file cannot be read, belongs to another network, is incomplete or contradicts the arguments,
            or the network cannot be masked. The network is then unchanged.
    """
    state, scores, masks = _sorted(tensor_file.read(path), network)
    has_weights = _check(state, scores, masks, network)
    if has_weights and weights is not None:
        raise UserError(f"the file has weights, so none are drawn: leave out weights = {weights!r}")
    if not has_weights and weights is None:
        raise UserError("the file has no weights: name a distribution to draw them from, weights = 'signed_constant'")
    method = _method(scores, masks, density, network)
    masking.mask_(network, method, weights=weights, seed=seed)
    masking.make_affine_neutral_(network)
    if isinstance(method, EdgePopup):
        state |= {f"{name}.scores": each for name, each in scores.items()}
    network.load_state_dict(state, strict=False)
    return network


Tensors = dict[str, Tensor]


def _sorted(tensors: Tensors, network: nn.Module) -> tuple[Tensors, Tensors, Tensors]:
    """Return the state by the network's keys, and scores and masks by layer name, in the network's dimensions."""
    modules = dict(network.named_modules())
    state: Tensors = {}
    scores: Tensors = {}
    masks: Tensors = {}
    for key, tensor in tensors.items():
        theirs, _, kind = key.rpartition(".")
        name = theirs if theirs in modules else _renamed(theirs)
        if key in modules or _renamed(key) in modules:
            name, kind = key if key in modules else _renamed(key), "mask"
        if isinstance(modules.get(name), nn.Linear) and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        target = {"scores": scores, "mask": masks, "weight_mask": masks}.get(kind, state)
        if target is state:
            name = f"{name}.{kind.removesuffix('_orig')}" if name else kind
        if name in target:
            raise UserError(f"{key} is in the file under another name too: remove one of the two")
        target[name] = tensor
    return state, scores, masks


def _check(state: Tensors, scores: Tensors, masks: Tensors, network: nn.Module) -> bool:
    """Check that the tensors belong to this network and are complete; return whether the file has weights."""
    layers, own = maskable_layers(network), network.state_dict()
    if not scores and not masks:
        raise UserError(
            "the file has neither scores nor masks (conv1.scores or conv1.mask): its network is dense, or its method "
            "finds the mask from the weights. Use a file of a subnetwork"
        )
    if scores and masks:
        raise UserError(
            f"the file has scores (of {next(iter(scores))}) and masks (of {next(iter(masks))}): remove one kind"
        )
    has_weights = any(f"{name}.weight" in state for name in layers)
    check_shapes(state, {key: own[key] for key in state if key in own})
    needed = [f"{name}.weight" for name in layers if has_weights]
    needed += [key for key in own if state and key.endswith((".running_mean", ".running_var"))]
    if missing := next((key for key in needed if key not in state), None):
        raise UserError(f"the file lacks {missing}: save the whole state dict with the masks, or only the masks")
    for kind, found in (("scores", scores), ("mask", masks)):
        here = {f"{name}.{kind}": layer.weight for name, layer in layers.items() if name in found}
        check_shapes({f"{name}.{kind}": tensor for name, tensor in found.items()}, here)
    if scores and (dense := next((name for name in layers if name not in scores), None)):
        raise UserError(f"the file has no scores of {dense}: if that layer was dense, save masks of the other layers")
    for key, tensor in state.items():
        if tensor.is_floating_point() != own[key].is_floating_point():
            raise UserError(f"{key} is {tensor.dtype} in the file and {own[key].dtype} here: save it as the latter")
        if tensor.isnan().any():
            raise UserError(f"{key} contains NaN, so its training diverged: use an earlier checkpoint")
    return has_weights


def _renamed(name: str) -> str:
    """Translate a layer name of edge-popup's public CIFAR ResNets and Conv2 to Conv8 into the name of this package."""
    name = re.sub(r"^convs\.", "features.", name.replace(".shortcut.", ".downsample."))
    # The classifier of this package begins with a Flatten.
    return re.sub(r"^linear\.([024])$", lambda found: f"classifier.{int(found[1]) + 1}", name)


def _method(scores: Tensors, masks: Tensors, density: float | None, network: nn.Module) -> Method:
    """Return the method under which the network has the masks of the file."""
    if not masks and not all(map(_is_binary, scores.values())):
        if density is None:
            raise UserError("the file has scores, which do not say how many weights are kept: set density, e.g. 0.3")
        for name, each in scores.items():
            if each.dtype not in (torch.float32, torch.bfloat16, torch.float16):
                raise UserError(f"the scores of {name} are {each.dtype} and would be rounded: save them as float32")
            if each.isnan().any():
                raise UserError(f"the scores of {name} contain NaN, so its training diverged: use an earlier file")
        return EdgePopup(density)
    if density is not None:
        raise UserError(f"the file has masks, which fix how many weights are kept: leave out density = {density}")
    masks = masks or scores
    for name, mask in masks.items():
        if not _is_binary(mask):
            raise UserError(f"the mask of {name} has numbers other than 0 and 1: save 1 for each weight that is kept")
    whole = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in maskable_layers(network).items()}
    return FixedMask(whole | {name: mask != 0 for name, mask in masks.items()})


def _is_binary(tensor: Tensor) -> bool:
    # In a file, a bool is a byte with any of 256 values.
    numbers = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
    return bool(((numbers == 0) | (numbers == 1)).all())
