"""What each tensor of a file from elsewhere is in a network of ours, by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking.maskable import maskable_layers
from lightning_subnets.training.checkpoint import check_shapes


class Layout(NamedTuple):
    """The tensors of a file, by the network's names and in its shapes."""

    state: dict[str, Tensor]  # weights, biases and what norms have, as in a state dict
    scores: dict[str, Tensor]  # by layer
    masks: dict[str, Tensor]  # by layer, of any type
    has_weights: bool  # of all layers, or of none


def layout_of(tensors: Mapping[str, Tensor], network: nn.Module) -> Layout:
    """The tensors sorted, and checked to be of this network; what is in them is looked at for NaN alone.

    Args:
        network: plain; it stays as it is.

    Raises:
        ValueError: if a name or a shape is not of this network, something is missing or there twice, there are neither
            scores nor masks or there are both, or there is NaN in the state.
    """
    layers, own = maskable_layers(network), network.state_dict()
    state, scores, masks = _sorted(tensors, network)
    if not scores and not masks:
        raise UserError(
            "the file has neither scores nor masks, conv1.scores or conv1.mask for instance: it is of a dense network, "
            "or of a method that finds its mask in the weights: take one of a subnetwork"
        )
    if scores and masks:
        raise UserError(
            f"the file has scores, of {next(iter(scores))}, and masks, of {next(iter(masks))}: leave one out"
        )
    has_weights = any(f"{name}.weight" in state for name in layers)
    check_shapes(state, {key: own[key] for key in state if key in own})
    needed = [f"{name}.weight" for name in layers if has_weights]
    needed += [key for key in own if state and key.endswith((".running_mean", ".running_var"))]
    if missing := next((key for key in needed if key not in state), None):
        raise UserError(f"the file lacks {missing}: save the whole state dict beside what is kept, or no part of it")
    for kind, found in (("scores", scores), ("mask", masks)):
        here = {f"{name}.{kind}": layer.weight for name, layer in layers.items() if name in found}
        check_shapes({f"{name}.{kind}": tensor for name, tensor in found.items()}, here)
    if scores and (dense := next((name for name in layers if name not in scores), None)):
        raise UserError(
            f"the file has no scores of {dense}, which was dense in it perhaps: save a file of masks instead, and none "
            f"for {dense}"
        )
    for key, tensor in state.items():
        if tensor.is_floating_point() != own[key].is_floating_point():
            raise UserError(
                f"{key} is of {tensor.dtype} in the file and of {own[key].dtype} here: save it as the latter"
            )
        if tensor.isnan().any():
            raise UserError(f"{key} has NaN in the file, whose training diverged: take an earlier checkpoint")
    return Layout(state, scores, masks, has_weights)


def _sorted(
    tensors: Mapping[str, Tensor], network: nn.Module
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """State, scores and masks."""
    modules = dict(network.named_modules())
    state: dict[str, Tensor] = {}
    scores: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        theirs, _, kind = key.rpartition(".")
        name = theirs if theirs in modules else _renamed(theirs)
        if key in modules or _renamed(key) in modules:
            name, kind = key if key in modules else _renamed(key), "mask"
        if isinstance(modules.get(name), nn.Linear) and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        place = {"scores": scores, "mask": masks, "weight_mask": masks}.get(kind, state)
        if place is state:
            name = f"{name}.{kind.removesuffix('_orig')}" if name else kind
        if name in place:
            raise UserError(f"{key} is in the file by another name too: leave one of the two out")
        place[name] = tensor
    return state, scores, masks


def _renamed(name: str) -> str:
    """A layer's name here, by that in edge-popup's public code: in its ResNets for CIFAR, and its Conv2 to Conv8."""
    name = re.sub(r"^convs\.", "features.", name.replace(".shortcut.", ".downsample."))
    # Ours begin with a Flatten.
    return re.sub(r"^linear\.([024])$", lambda found: f"classifier.{int(found[1]) + 1}", name)
