"""A network from a ``.subnet`` file: plain, to run, or masked, to go on training."""

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
from lightning_subnets.subnet_file.container import NUMBERS_PER_BYTE, Container
from lightning_subnets.subnet_file.header import Header


def load_subnet(path: str | Path, *, masked: bool = False, network: nn.Module | None = None) -> nn.Module:
    """The network of a ``.subnet`` file, on the CPU, its weights drawn from the seed again: the same to the bit.

    Nothing of the file is executed. It is refused if a byte of it has changed, if the weights drawn here are not those
    it was made of, or if anything in it does not fit the network.

    Args:
        path: of the file.
        masked: as ``mask_`` gives it, by the method that found it, to go on training; if not, a plain network with the
            mask folded into its weights, in evaluation mode. Scores are not in the file: they begin anew, those of what
            is kept above the others. Weights that are not kept are there again if the seed gives them.
        network: to load into, where the file is of a network of neither torchvision.models, timm nor this package;
            plain, and of the same layers. In place, also if it fails half-way.

    Raises:
        ValueError: saying what is wrong, of the file, of the network that is handed in, or of a method that is not in
            this package.
    """
    path = Path(path)
    file = Container(path)
    try:
        with np.errstate(over="ignore"):  # weights at a density of 1e-300 are infinite, as the digest will tell
            return _load(file, masked, network)
    except UserError as error:
        raise UserError(f"{path} cannot be loaded: {error}") from error


def masks_in(path: str | Path) -> dict[str, Tensor]:
    """The masks of a ``.subnet`` file by layer, boolean; for whatever network.

    Raises:
        ValueError: if the file cannot be read, or a mask in it is not whole.
    """
    file = Container(Path(path))
    try:
        return {name: _mask(file, name) for name in file.header.layers}
    except UserError as error:
        raise UserError(f"{path} cannot be loaded: {error}") from error


def _load(file: Container, masked: bool, network: nn.Module | None) -> nn.Module:
    header = file.header
    if network is None:
        name, arguments = header.network.builder, header.network.arguments
        network = building.build(name, arguments, at_most=NUMBERS_PER_BYTE * file.size)
    _check_layers(header, network)
    maskable.maskable_layers(network)
    network.to(getattr(torch, header.network.dtype))
    if masked:
        method = _method(header)
        masking.install_masks_(network, method, weights=header.weights.distribution, seed=header.weights.seed)
    masking.make_affine_neutral_(network)
    weights, masks = hashlib.sha256(), hashlib.sha256()
    for key, parameter in sorted(network.named_parameters()):
        owner, _, own = key.rpartition(".")
        if owner in header.layers and own == "weight":
            mask = _mask(file, owner)
            digest.update_(masks, owner, mask)
            _fill_(network.get_submodule(owner), file, owner, mask, weights)
        elif own != "scores":
            if f"state/{key}" in file:
                _copy_(file, key, parameter)
            digest.update_(weights, key, parameter)
    parameters = dict(network.named_parameters())
    for key, buffer in network.state_dict().items():
        if key not in parameters:
            _copy_(file, key, buffer)
    file.check_all_taken()
    for what, found, stated in (
        ("weights", weights.hexdigest(), header.digests.weights),
        ("masks", masks.hexdigest(), header.digests.masks),
    ):
        if found != stated:
            raise UserError(
                f"its {what} have the digest {found[:16]}... here and {stated!r:.18}... in the file: they were drawn "
                "by another version of lightning-subnets, or its network is built in another way here"
            )
    if masked:
        _check_masks(network, header)
    return network.train() if masked else network.eval()


def _check_layers(header: Header, network: nn.Module) -> None:
    if any(isinstance(module, MaskedLayer) for module in network.modules()):
        raise UserError("the network that is handed in is masked: hand in a plain one, or call unmask_(network) first")
    here = {name: list(each.weight.shape) for name, each in network.named_modules() if type(each) in maskable.MASKABLE}
    for name in dict.fromkeys((*here, *header.layers)):
        there = header.layers[name].shape if name in header.layers else "none"
        if here.get(name, "none") != there:
            raise UserError(
                f"it is of another network: the layer {name!r:.100} has shape {there} there and "
                f"{here.get(name, 'none')} here"
            )


def _method(header: Header) -> Method:
    """The method that found the masks, of those in this package."""
    name, arguments = header.method.name, dict(header.method.arguments)
    if name not in methods.__all__:
        raise UserError(
            f"it is of the method {name!r:.60}, not one of {', '.join(methods.__all__)}: load it without masked"
        )
    if name == "FixedMask":
        arguments["masks"] = {}
    try:
        method: Method = getattr(methods, name)(**arguments)
    except Exception as error:  # arguments from a file may be of any type
        raise UserError(f"its method cannot be made, {name}({reprlib.repr(arguments)}): {str(error)!r:.200}") from error
    return method


def _mask(file: Container, name: str) -> Tensor:
    entry = file.header.layers[name]
    coded = file.take(f"mask/{name}")
    if coded.dtype != torch.uint8 or coded.dim() != 1:
        raise UserError(f"the mask of {name!r:.100} is of {coded.dtype} and of {coded.dim()} dimensions")
    mask = mask_codec.decode(entry.code, coded.numpy().tobytes(), entry.size)
    if (kept := int(np.count_nonzero(mask))) != entry.kept:
        raise UserError(f"the mask of {name!r:.100} keeps {kept} weights and not {entry.kept}")
    return torch.from_numpy(mask).view(entry.shape)


@torch.no_grad()
def _fill_(layer: nn.Module, file: Container, name: str, mask: Tensor, weights: hashlib._Hash) -> None:
    """Put a layer's weights in, take them into the digest, and then the mask into them, or the scores that give it."""
    header, entry = file.header, file.header.layers[name]
    weight, masked = layer.weight, isinstance(layer, MaskedLayer)
    assert isinstance(weight, Tensor)
    if entry.weights != "drawn":
        weight_code.decode(entry, file.take(f"{entry.weights}/{name}"), mask, out=weight)
    elif header.weights.distribution is None:
        raise UserError(f"the weights of {name!r:.100} are drawn, and it does not say from which distribution")
    elif not masked or entry.stream != name:  # else they have been, by mask_
        weight.copy_(header.weights.draw(weight, entry.stream))
    digest.update_(weights, f"{name}.weight", weight)
    if not isinstance(layer, MaskedLayer):
        weight_code.apply_(entry, weight, mask)
        return
    if entry.weights != "drawn" and layer.method.trainable == "scores" and entry.stream:
        # What is not kept may be again, and is 0 where no seed gives it.
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
            f"its {key!r:.100} is {tuple(stored.shape)} of {stored.dtype}, and that of its network {tuple(to.shape)} "
            f"of {to.dtype}"
        )
    to.copy_(stored)


def _check_masks(network: nn.Module, header: Header) -> None:
    """Check that the method gives the masks that are in the file, from the scores and the weights there are."""
    found = masking.masks(network)
    masks = hashlib.sha256()
    for name in sorted(found, key="{}.weight".format):  # the order of parameters: a-b comes before a there
        digest.update_(masks, name, found[name])
    if masks.hexdigest() != header.digests.masks:
        raise UserError(
            f"{header.method.name}({reprlib.repr(header.method.arguments)}) does not give its masks: load it without "
            "masked"
        )
