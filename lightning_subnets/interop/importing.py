"""Turn a plain network into the subnetwork of another program's file: edge-popup's public checkpoints, plain masks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.interop import tensor_file
from lightning_subnets.masking.maskable import find_weights
from lightning_subnets.masking.masked_weight import check_shapes, scores_key, scores_names
from lightning_subnets.masking.method import Method
from lightning_subnets.masking.other_parameters import initialize_others_
from lightning_subnets.methods import EdgePopup, FixedMask

Tensors = dict[str, Tensor]

PREFIXES = ("_orig_mod.", "module.", "model.", "net.")  # torch.compile, DataParallel, and Lightning modules


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

    - Scores: ``conv1.scores`` for every weight, as edge-popup's public code saves them; this package saves those of
      ``attn.in_proj_weight`` as ``attn.in_proj_weight_scores``. The method becomes ``EdgePopup(density)``, which keeps
      each weight's k largest |scores|. If scores tie at the k-th place, this package keeps the first of them; the
      public code may keep others.
    - Masks of zeros and ones, of any dtype: ``conv1``, ``conv1.mask``, ``conv1.weight_mask`` (torch.nn.utils.prune),
      ``attn.in_proj_weight.mask``; ``conv1.weight`` if the file has nothing but masks (open_lth); or ``conv1.scores``
      with zeros and ones only (the public code, if it trains weights under a mask). The method becomes ``FixedMask``.
      A weight without a mask is kept whole.

    The file also has either all weights (``conv1.weight`` or ``conv1.weight_orig``) and all running statistics of
    norms; or no weights, which are then drawn, and all running statistics or none. Everything else that the file lacks
    becomes as ``mask_`` sets it: biases become 0, and norms have scale 1, shift 0 and initial statistics.

    The prefixes ``_orig_mod.``, ``module.``, ``model.`` and ``net.`` are removed if all names in the file have them. A
    1x1 convolution in the file matches a Linear in the network. The public code's layer names are understood for its
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
    weights_here = _weights(network)
    state, scores, masks = _sorted(_without_prefixes(tensor_file.read(path), network), network, weights_here)
    has_weights = _check(state, scores, masks, network, weights_here)
    if has_weights and weights is not None:
        raise UserError(f"the file has weights, so none are drawn: leave out weights = {weights!r}")
    if not has_weights and weights is None:
        raise UserError("the file has no weights: name a distribution to draw them from, weights = 'signed_constant'")
    method = _method(scores, masks, density, weights_here)
    masking.mask_(network, method, weights=weights, seed=seed)
    masked = {id(parameter) for parameter in weights_here.values()}
    every_name = network.named_parameters(remove_duplicate=False)  # a tied parameter has several
    left = {name for name, parameter in every_name if id(parameter) in masked}
    initialize_others_(network, left | scores_names(network), seed=seed)
    if isinstance(method, EdgePopup):
        for name, each in scores.items():
            owner, _, key = name.rpartition(".")
            state[f"{owner}.{scores_key(key)}".removeprefix(".")] = each
    network.load_state_dict(state, strict=False)
    return network


def _weights(network: nn.Module) -> Tensors:
    """Return the weights to mask by the full names of their parameters."""
    if masking.is_masked(network):
        raise UserError(f"{type(network).__name__} is masked already, so it cannot be masked again: give a plain one")
    return {name: each.parameter for name, each in find_weights(network).masked.items()}


def _without_prefixes(tensors: Tensors, network: nn.Module) -> Tensors:
    """Remove the prefixes of wrappers that all names share and that are no part of the network."""
    children = {name for name, _ in network.named_children()}
    while prefix := next(
        (each for each in PREFIXES if each[:-1] not in children and all(key.startswith(each) for key in tensors)), None
    ):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _sorted(tensors: Tensors, network: nn.Module, weights: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    """Return the state by the network's keys, and scores and masks by weights, in the network's dimensions."""
    fits = tensors.keys() <= weights.keys() and all(tensors[key].shape == weights[key].shape for key in tensors)
    if fits and all(map(_is_binary, tensors.values())):
        return {}, {}, tensors  # the names of weights without anything else, as open_lth saves masks
    modules = dict(network.named_modules())
    known = network.state_dict()
    first_name = {id(parameter): name for name, parameter in network.named_parameters()}
    tied = {name: first_name[id(each)] for name, each in network.named_parameters(remove_duplicate=False)}
    state: Tensors = {}
    scores: Tensors = {}
    masks: Tensors = {}
    read_as: dict[tuple[str, str], str] = {}
    for key, tensor in tensors.items():
        name, kind = _place(key, modules, known)
        owner, _, own = name.rpartition(".")
        if isinstance(modules.get(owner), nn.Linear) and own == "weight" and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        target = {"scores": scores, "mask": masks, "state": state}[kind]
        first = tied.get(name, name) if kind != "state" else name
        if first in target:
            # A state dict has the scores of a tied weight under each of its names.
            if read_as[kind, first] != name and torch.equal(target[first], tensor):
                continue
            raise UserError(f"{key} is in the file under another name too: remove one of the two")
        target[first], read_as[kind, first] = tensor, name
    return state, scores, masks


def _place(key: str, modules: Mapping[str, nn.Module], known: Mapping[str, Tensor]) -> tuple[str, str]:
    """Return the parameter or buffer that a name in the file belongs to, and the kind of its tensor."""
    if key in known:
        return key, "state"
    for name in (key, _renamed(key)):
        if name in modules:
            return f"{name}.weight".removeprefix("."), "mask"
    theirs, _, kind = key.rpartition(".")
    owner = theirs if theirs in modules else _renamed(theirs)
    if kind in ("scores", "mask"):
        return (owner if owner in known else f"{owner}.weight".removeprefix(".")), kind
    for suffix, what in (("_scores", "scores"), ("_mask", "mask"), ("_orig", "state")):
        name = f"{owner}.{kind.removesuffix(suffix)}".removeprefix(".")
        if kind.endswith(suffix) and (name in known or kind.startswith("weight_")):
            return name, what
    return f"{owner}.{kind}".removeprefix("."), "state"


def _check(state: Tensors, scores: Tensors, masks: Tensors, network: nn.Module, weights: Tensors) -> bool:
    """Check that the tensors belong to this network and are complete; return whether the file has weights."""
    own = network.state_dict()
    if not scores and not masks:
        raise UserError(
            "the file has neither scores nor masks (conv1.scores or conv1.mask): its network is dense, or its method "
            "finds the mask from the weights. Use a file of a subnetwork"
        )
    if scores and masks:
        raise UserError(
            f"the file has scores (of {_short(next(iter(scores)))}) and masks (of {_short(next(iter(masks)))}): "
            "remove one kind"
        )
    has_weights = not state.keys().isdisjoint(weights)
    check_shapes(state, {key: own[key] for key in state if key in own}, "the file is")
    needed = [name for name in weights if has_weights]
    needed += [key for key in own if state and key.endswith((".running_mean", ".running_var"))]
    if missing := next((key for key in needed if key not in state), None):
        raise UserError(f"the file lacks {missing}: save the whole state dict with the masks, or only the masks")
    for kind, found in (("scores", scores), ("mask", masks)):
        here = {f"{_short(name)}.{kind}": weight for name, weight in weights.items() if name in found}
        check_shapes({f"{_short(name)}.{kind}": tensor for name, tensor in found.items()}, here, "the file is")
    if scores and (dense := next((name for name in weights if name not in scores), None)):
        raise UserError(
            f"the file has no scores of {_short(dense)}: if that layer was dense, save masks of the other layers"
        )
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


def _method(scores: Tensors, masks: Tensors, density: float | None, weights: Tensors) -> Method:
    """Return the method under which the network has the masks of the file."""
    if not masks and not all(map(_is_binary, scores.values())):
        if density is None:
            raise UserError("the file has scores, which do not say how many weights are kept: set density, e.g. 0.3")
        for name, each in scores.items():
            if each.dtype not in (torch.float32, torch.bfloat16, torch.float16):
                raise UserError(
                    f"the scores of {_short(name)} are {each.dtype} and would be rounded: save them as float32"
                )
            if each.isnan().any():
                raise UserError(
                    f"the scores of {_short(name)} contain NaN, so its training diverged: use an earlier file"
                )
        return EdgePopup(density)
    if density is not None:
        raise UserError(f"the file has masks, which fix how many weights are kept: leave out density = {density}")
    masks = masks or scores
    for name, mask in masks.items():
        if not _is_binary(mask):
            raise UserError(
                f"the mask of {_short(name)} has numbers other than 0 and 1: save 1 for each weight that is kept"
            )
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    return FixedMask(kept | {name: mask != 0 for name, mask in masks.items()})


def _short(weight: str) -> str:
    """Return the name of a weight as other programs name masks: that of the layer for ``conv1.weight``."""
    return weight.removesuffix(".weight")


def _is_binary(tensor: Tensor) -> bool:
    # In a file, a bool is a byte with any of 256 values.
    numbers = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
    return bool(((numbers == 0) | (numbers == 1)).all())
