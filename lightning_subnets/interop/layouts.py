"""Sort the tensors of a file by their role in a network: state, scores or masks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking.maskable import maskable_layers
from lightning_subnets.training.checkpoint import check_shapes


class Layout(NamedTuple):
    """The tensors of a file, under the network's names and in the network's shapes.

    Attributes:
        state: weights, biases, and parameters and buffers of norms, by their key in the state dict.
        scores: by layer name.
        masks: by layer name, of any type.
        has_weights: whether the file has the weights of all layers; otherwise it has none.
    """

    state: dict[str, Tensor]
    scores: dict[str, Tensor]
    masks: dict[str, Tensor]
    has_weights: bool


def layout_of(tensors: Mapping[str, Tensor], network: nn.Module) -> Layout:
    """Sort the tensors and check that they belong to this network; scores and masks are not checked for NaN.

    Args:
        tensors: of the file, by name.
        network: plain; it is not changed.

    Raises:
        ValueError: if a name or a shape does not fit the network, a tensor is missing or occurs twice, the state
            contains NaN, or the file does not have either scores or masks.
    """
    layers, own = maskable_layers(network), network.state_dict()
    state, scores, masks = _sorted(tensors, network)
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
    return Layout(state, scores, masks, has_weights)


def _sorted(
    tensors: Mapping[str, Tensor], network: nn.Module
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Return state, scores and masks."""
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
        target = {"scores": scores, "mask": masks, "weight_mask": masks}.get(kind, state)
        if target is state:
            name = f"{name}.{kind.removesuffix('_orig')}" if name else kind
        if name in target:
            raise UserError(f"{key} is in the file under another name too: remove one of the two")
        target[name] = tensor
    return state, scores, masks


def _renamed(name: str) -> str:
    """Translate a layer name of edge-popup's public CIFAR ResNets and Conv2 to Conv8 into the name of this package."""
    name = re.sub(r"^convs\.", "features.", name.replace(".shortcut.", ".downsample."))
    # The classifier of this package begins with a Flatten.
    return re.sub(r"^linear\.([024])$", lambda found: f"classifier.{int(found[1]) + 1}", name)
