"""Load a network from a ``.subnet`` file: plain to run it, or masked to continue its training."""

from __future__ import annotations

import glob
import hashlib
import reprlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_subnets import masking, methods
from lightning_subnets.errors import UserError
from lightning_subnets.masking import digest, is_masked
from lightning_subnets.masking.choice import Choice
from lightning_subnets.masking.frozen_edges import FrozenEdges
from lightning_subnets.masking.maskable import parameters_of
from lightning_subnets.masking.masked_weight import MaskedWeight, masked_weights, multipliers, scores_names
from lightning_subnets.masking.method import Method, as_mask
from lightning_subnets.masking.other_parameters import initialize_others_
from lightning_subnets.subnet_file import building, multiplier_code, weight_code
from lightning_subnets.subnet_file.container import NUMBERS_PER_BYTE, Container, naming_file
from lightning_subnets.subnet_file.header import Header


def load_subnet(
    path: str | Path, *, masked: bool = False, network: nn.Module | None = None, task: str | None = None
) -> nn.Module:
    """Return the network of a ``.subnet`` file on the CPU, equal to the bit to the one that was saved.

    Nothing in the file is executed. The weights are drawn again from the seed and compared with the file's digest.

    Args:
        path: the file, or the ``hf://user/name/file.subnet`` of a file on the Hugging Face Hub (see ``hub.py``).
        masked: return a masked network in training mode, as ``mask_`` gives it, instead of a plain one in evaluation
            mode with the mask folded into the weights. Scores are not in the file: they start again, higher for kept
            weights than for the others. A dropped weight is 0 if the seed does not give it. The file does not say what
            was trained beside the masks: if the method trains scores, a head that was trained without a mask is frozen.
        network: a plain network with the same weights to load into, or a wrapper around it, such as ``torch.compile``
            returns. It is needed if torchvision.models, timm and this package do not build the file's network. It is
            changed in place, even if loading fails, and returned.
        task: the name of the task to load. Only the files of ``SupSup.save`` have tasks, and they need it.

    Raises:
        ValueError: if the file is missing or damaged, cannot be downloaded or does not fit the network, the weights
            drawn here differ from those that were saved, ``masked`` needs a method that is not in this package, or
            ``task`` is missing, unknown, or named for a file without tasks.
    """
    file = Container(path, task=task)
    # Weights drawn for a density of 1e-300 are infinite. The digest then refuses them.
    with naming_file(path), np.errstate(over="ignore"):
        loaded = load_from(file, masked=masked, network=None if network is None else building.unwrapped(network))
    return loaded if network is None else network.train(masked)


def masks_in(path: str | Path) -> dict[str, Tensor]:
    """Return the boolean masks of a ``.subnet`` file by weight, without building its network; see ``load_subnet``."""
    file = Container(path)
    with naming_file(path):
        return {name: as_mask(multiplier_of(file, name)) for name in file.header.layers}


def load_from(file: Container, *, masked: bool, network: nn.Module | None) -> nn.Module:
    """Return the network of an open file; see ``load_subnet``."""
    header = file.header
    if network is None:
        at_most = NUMBERS_PER_BYTE * file.size
        network = building.build(header.network.builder, header.network.arguments, at_most=at_most)
    choice = _choice(file, network)
    cast_(network, getattr(torch, header.network.dtype))
    if masked:
        drawn = header.weights
        masking.install_masks_(network, _method(header), weights=drawn.distribution, seed=drawn.seed, choice=choice)
    weights, scores = (masked_weights(network), scores_names(network)) if masked else ({}, set())
    parameters = dict(sorted(network.named_parameters()))
    every_name = dict(network.named_parameters(remove_duplicate=False))  # a tied parameter has several
    initialize_others_(network, header.layers.keys() | header.dense.keys() | scores, seed=header.weights.seed)
    weights_digest, masks_digest = hashlib.sha256(), hashlib.sha256()
    for key, parameter in parameters.items():
        if key in header.layers:
            multiplier = multiplier_of(file, key)
            digest.update_(masks_digest, key, multiplier)
            _restore_(parameter, weights.get(key), file, key, as_mask(multiplier))
            digest.update_(weights_digest, key, parameter)
            if masked:
                _continue_(weights[key], header, key, multiplier)
            else:
                weight_code.apply_(header.layers[key], parameter, multiplier)
        elif key not in scores:
            if key in header.dense:
                with torch.no_grad():
                    parameter.copy_(header.weights.origin(header.dense[key], density=1.0).draw(parameter.shape))
            elif f"state/{key}" in file:
                copy_(file, key, parameter)
            digest.update_(weights_digest, key, parameter)
    for key, buffer in network.state_dict().items():
        if key not in every_name:
            copy_(file, key, buffer)
    file.check_all_taken()
    found = {"weights": weights_digest.hexdigest(), "masks": masks_digest.hexdigest()}
    for what, stated in vars(header.digests).items():
        if found[what] != stated:
            raise UserError(
                f"the {what} have the digest {found[what][:16]}... here and {stated!r:.18}... in the file. Another "
                "version of lightning-subnets drew the weights, or the network is built differently here"
            )
    if not masked:
        return network.eval()
    _check_masks(network, header)
    return network.train()


def cast_(network: nn.Module, dtype: torch.dtype) -> None:
    """Give a network the dtype of a file, unless it has it; tables outside the state dict may have other dtypes."""
    state = [each for each in network.state_dict().values() if isinstance(each, Tensor) and each.is_floating_point()]
    if any(each.dtype != dtype for each in state):
        # As in Module.float, because Module.to(dtype) would drop the imaginary part of a complex table.
        network._apply(lambda each: each.to(dtype) if each.is_floating_point() else each)  # type: ignore[no-untyped-call]


def _choice(file: Container, network: nn.Module) -> Choice:
    """Check that network and file have the same weights; return which of them are masked."""
    header = file.header
    if is_masked(network):
        raise UserError("the given network is masked: give a plain one, or call unmask_(network) first")
    if any(map(nn.parameter.is_lazy, network.parameters())):
        raise UserError("the given network is lazy: pass a batch through it first")
    parameters = parameters_of(network)
    weights = {name: each for name, each in parameters.items() if each.named}
    for name in dict.fromkeys((*weights, *header.layers, *header.dense)):
        stated = header.layers[name].shape if name in header.layers else None
        here = list(parameters[name].parameter.shape) if name in parameters else None
        is_dense = stated is None and name in weights and (name in header.dense or f"state/{name}" in file)
        if not is_dense and (here != stated or here is None or name in header.dense):
            raise UserError(
                f"the weight {name!r:.100} has shape {stated} in the file and {here} in the network: "
                "load it into the network that was saved"
            )
    # The escaped patterns match exactly these names, even if a name contains a star.
    return Choice(
        keep_dense=tuple(glob.escape(name) for name in weights if name not in header.layers),
        also_mask=tuple(glob.escape(name) for name in header.layers if not parameters[name].named_by_all),
        norms=header.norms,
    )


def _method(header: Header) -> Method:
    name, arguments = header.method.name, dict(header.method.arguments)
    if name not in methods.__all__:
        raise UserError(
            f"the method {name!r:.60} is not one of {', '.join(methods.__all__)}: load the network without masked=True"
        )
    if name == "FixedMask":
        arguments["masks"] = {}
    try:
        method: Method = getattr(methods, name)(**arguments)
    except Exception as error:  # arguments from a file may be of any type
        raise UserError(
            f"the method {name}({reprlib.repr(arguments):.200}) cannot be created: {str(error)!r:.200}"
        ) from error
    return method


def multiplier_of(file: Container, name: str) -> Tensor:
    """Return the m of a weight of the file, w_eff = w * m: its mask, or int8."""
    return multiplier_code.decode(file.header.layers[name], name, lambda part: file.take(f"{part}/{name}"))


@torch.no_grad()
def _restore_(weight: nn.Parameter, masked: MaskedWeight | None, file: Container, name: str, mask: Tensor) -> None:
    """Give a weight the numbers that it was saved with, from the file or from the seed, without the mask."""
    entry = file.header.layers[name]
    if entry.weights != "drawn":
        weight_code.decode(entry, file.take(f"{entry.weights}/{name}"), mask, out=weight)
        return
    origin = file.header.weights.origin(entry.stream, entry.density)
    if masked is None or masked.origin != origin:  # otherwise install_masks_ has drawn it
        weight.copy_(origin.draw(weight.shape))


@torch.no_grad()
def _continue_(masked: MaskedWeight, header: Header, name: str, multiplier: Tensor) -> None:
    """Give a restored weight what its training continues from: origin, frozen edges, number kept, and scores."""
    entry, weight, mask = header.layers[name], masked.weight, as_mask(multiplier)
    if masked.origin and entry.stream:
        masked.state.origin = origin = header.weights.origin(entry.stream, entry.density)
        if entry.weights != "drawn" and masked.method.trainable == "scores":
            # A dropped weight may be kept again, so the seed's value takes the place of the stored 0.
            weight.copy_(torch.where(mask.to(weight.device), weight, origin.draw(weight.shape).to(weight)))
    # Weights that came with the network, or had another name, have frozen edges of another draw.
    if masked.frozen_edges and entry.frozen and multiplier_code.stated(masked.frozen_edges) != entry.frozen:
        masked.state.frozen_edges = FrozenEdges.draw(weight.shape, **vars(entry.frozen))
    if masked.num_kept is not None and entry.num_kept is not None:
        masked.state.num_kept = entry.num_kept
    if masked.scores is not None:
        masked.scores.copy_(masked.method.scores_for_mask(multiplier.to(masked.scores.device), masked.scores))


@torch.no_grad()
def copy_(file: Container, key: str, to: Tensor) -> None:
    """Copy a tensor of the state dict from a file, after checking its shape and dtype."""
    stored = file.take(f"state/{key}")
    if stored.shape != to.shape or stored.dtype != to.dtype:
        raise UserError(
            f"{key!r:.100} is {stored.dtype} of shape {tuple(stored.shape)} in the file, and {to.dtype} of shape "
            f"{tuple(to.shape)} in the network"
        )
    to.copy_(stored)


def _check_masks(network: nn.Module, header: Header) -> None:
    """Check that the method restores the file's masks from the scores and the weights."""
    if digest.digest_of(multipliers(network)) != header.digests.masks:
        raise UserError(
            f"{header.method.name}({reprlib.repr(header.method.arguments):.200}) does not give the masks in the file: "
            "load the network without masked=True"
        )
