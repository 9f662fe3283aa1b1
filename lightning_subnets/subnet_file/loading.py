"""Load a network from a ``.subnet`` file: plain to run it, or masked to continue its training."""

from __future__ import annotations

import hashlib
import reprlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_subnets import masking, methods
from lightning_subnets.errors import UserError
from lightning_subnets.masking import MaskedLayer, digest, maskable
from lightning_subnets.masking.method import Method
from lightning_subnets.subnet_file import mask_codec, weight_code
from lightning_subnets.subnet_file import network as building
from lightning_subnets.subnet_file.container import NUMBERS_PER_BYTE, Container, naming_file
from lightning_subnets.subnet_file.header import Header


def load_subnet(path: str | Path, *, masked: bool = False, network: nn.Module | None = None) -> nn.Module:
    """Return the network of a ``.subnet`` file on the CPU, equal to the bit to the one that was saved.

    Nothing in the file is executed. The weights are drawn again from the seed and compared with the file's digest.

    Args:
        path: the file.
        masked: return a masked network in training mode, as ``mask_`` gives it, instead of a plain one in evaluation
            mode with the mask folded into the weights. Scores are not in the file: they start again, higher for kept
            weights than for the others. A dropped weight is 0 if the seed does not give it.
        network: a plain network with the same layers to load into, needed if torchvision.models, timm and this package
            do not build the file's network. It is changed in place, even if loading fails.

    Raises:
        ValueError: if the file is missing, damaged or does not fit the network, the weights drawn here differ from
            those that were saved, or ``masked`` needs a method that is not in this package.
    """
    path = Path(path)
    file = Container(path)
    # Weights drawn for a density of 1e-300 are infinite. The digest then refuses them.
    with naming_file(path), np.errstate(over="ignore"):
        return _load(file, masked, network)


def masks_in(path: str | Path) -> dict[str, Tensor]:
    """Return the boolean masks of a ``.subnet`` file by layer, without building its network."""
    path = Path(path)
    file = Container(path)
    with naming_file(path):
        return {name: _mask(file, name) for name in file.header.layers}


def _load(file: Container, masked: bool, network: nn.Module | None) -> nn.Module:
    header = file.header
    if network is None:
        at_most = NUMBERS_PER_BYTE * file.size
        network = building.build(header.network.builder, header.network.arguments, at_most=at_most)
    _check_layers(header, network)
    network.to(getattr(torch, header.network.dtype))
    if masked:
        weights = header.weights
        masking.install_masks_(network, _method(header), weights=weights.distribution, seed=weights.seed)
    masking.make_affine_neutral_(network)
    weights_digest, masks_digest = hashlib.sha256(), hashlib.sha256()
    parameters = dict(sorted(network.named_parameters()))
    for key, parameter in parameters.items():
        owner, _, own = key.rpartition(".")
        if owner in header.layers and own == "weight":
            mask = _mask(file, owner)
            digest.update_(masks_digest, owner, mask)
            _fill_(network.get_submodule(owner), file, owner, mask, weights_digest)
        elif own != "scores":
            if f"state/{key}" in file:
                _copy_(file, key, parameter)
            digest.update_(weights_digest, key, parameter)
    for key, buffer in network.state_dict().items():
        if key not in parameters:
            _copy_(file, key, buffer)
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


def _check_layers(header: Header, network: nn.Module) -> None:
    if any(isinstance(module, MaskedLayer) for module in network.modules()):
        raise UserError("the given network is masked: give a plain one, or call unmask_(network) first")
    shapes = {name: list(layer.weight.shape) for name, layer in maskable.maskable_layers(network).items()}
    for name in dict.fromkeys((*shapes, *header.layers)):
        stated = header.layers[name].shape if name in header.layers else None
        if shapes.get(name) != stated:
            raise UserError(
                f"the layer {name!r:.100} has shape {stated} in the file and {shapes.get(name)} in the network: "
                "load it into the network that was saved"
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
            f"the method {name}({reprlib.repr(arguments)}) cannot be created: {str(error)!r:.200}"
        ) from error
    return method


def _mask(file: Container, name: str) -> Tensor:
    entry, data = file.header.layers[name], file.take(f"mask/{name}")
    if data.dtype != torch.uint8 or data.dim() != 1:
        raise UserError(f"the mask of {name!r:.100} has dtype {data.dtype} and {data.dim()} dimensions")
    mask = mask_codec.decode(entry.code, data.numpy().tobytes(), entry.size)
    if (kept := int(np.count_nonzero(mask))) != entry.kept:
        raise UserError(f"the mask of {name!r:.100} keeps {kept} weights instead of {entry.kept}")
    return torch.from_numpy(mask).view(entry.shape)


@torch.no_grad()
def _fill_(layer: nn.Module, file: Container, name: str, mask: Tensor, weights_digest: hashlib._Hash) -> None:
    """Restore a layer's weights, add them to the digest, then apply the mask to the weights or to the scores."""
    header, entry = file.header, file.header.layers[name]
    weight, masked = layer.weight, isinstance(layer, MaskedLayer)
    assert isinstance(weight, Tensor)
    if entry.weights != "drawn":
        weight_code.decode(entry, file.take(f"{entry.weights}/{name}"), mask, out=weight)
    elif header.weights.distribution is None:
        raise UserError(f"the weights of {name!r:.100} are drawn, but the file states no distribution")
    elif not masked or entry.stream != name:  # otherwise install_masks_ has drawn them
        weight.copy_(header.weights.draw(weight, entry.stream))
    digest.update_(weights_digest, f"{name}.weight", weight)
    if not isinstance(layer, MaskedLayer):
        weight_code.apply_(entry, weight, mask)
        return
    if entry.weights != "drawn" and layer.method.trainable == "scores" and entry.stream:
        # A dropped weight may be kept again, so the seed's value takes the place of the stored 0.
        drawn = header.weights.draw(weight, entry.stream).to(weight.device)
        weight.copy_(torch.where(mask.to(weight.device), weight, drawn))
    if layer.origin and entry.stream:
        layer.origin = layer.origin._replace(layer=entry.stream)
    if layer.scores is not None:
        layer.scores.copy_(layer.method.scores_for_mask(mask.to(layer.scores.device), layer.scores))


@torch.no_grad()
def _copy_(file: Container, key: str, to: Tensor) -> None:
    stored = file.take(f"state/{key}")
    if stored.shape != to.shape or stored.dtype != to.dtype:
        raise UserError(
            f"{key!r:.100} is {stored.dtype} of shape {tuple(stored.shape)} in the file, and {to.dtype} of shape "
            f"{tuple(to.shape)} in the network"
        )
    to.copy_(stored)


def _check_masks(network: nn.Module, header: Header) -> None:
    """Check that the method restores the file's masks from the scores and the weights."""
    found = masking.masks(network)
    masks_digest = hashlib.sha256()
    for name in sorted(found, key="{}.weight".format):  # in the order of the parameters, as _load does
        digest.update_(masks_digest, name, found[name])
    if masks_digest.hexdigest() != header.digests.masks:
        raise UserError(
            f"{header.method.name}({reprlib.repr(header.method.arguments)}) does not give the masks in the file: load "
            "the network without masked=True"
        )
