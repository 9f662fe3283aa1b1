"""Write a subnetwork into a ``.subnet`` file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_subnets._version import versions
from lightning_subnets.atomic_file import check_place
from lightning_subnets.errors import UserError
from lightning_subnets.masking import MaskedLayer, digest, masked_layers
from lightning_subnets.masking import masks as current_masks
from lightning_subnets.masking.maskable import NORMS
from lightning_subnets.subnet_file import container, mask_codec, weight_code
from lightning_subnets.subnet_file import header as headers
from lightning_subnets.subnet_file import network as building


def save_subnet(
    net: nn.Module,
    path: str | Path,
    *,
    network: str | Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    accuracy: Mapping[str, float] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Write a masked network into a file: the seed that its weights were drawn from, and a bit for each of them.

    Masks take about their entropy, n H(d) bits for n weights at density d. Weights that the seed gives take nothing; of
    others those that are kept are written down, as one bit each where they are of one magnitude. Biases and norms
    are written down where they have been trained, running statistics always. Scores are not.

    Args:
        net: masked; it stays as it is.
        path: to write, by custom ``.subnet``.
        network: the name of what builds it, ``"timm.models.resnet.resnet26"``, or name and arguments as in a config,
            ``{"class_path": "lightning_subnets.networks.Conv4", "init_args": {"image_size": 32}}``. A network of
            torchvision.models as it is is found without. Under a name that is not of torchvision.models, timm or
            ``lightning_subnets.networks``, who loads the file hands the network in.
        classes: their names, in the order of the outputs.
        accuracy: fractions by name.
        preprocessing: of images: ``input_shape``, and ``mean`` and ``std`` by channel of values in [0, 1].
        config: of the run.
        force: replace a file that is there.

    Raises:
        ValueError: if the network is not masked, its builder is not found or builds another network, its numbers are
            of several types, the file is there already, or it cannot be written.
    """
    path = Path(path)
    check_place(path, force=force)
    if isinstance(classes, str):
        raise UserError(f"classes = {classes!r} is one text, and not a list of names")
    layers = dict(masked_layers(net))
    numbers = {key: each for key, each in net.state_dict().items() if key.rpartition(".")[2] != "scores"}
    dtypes = {each.dtype for each in numbers.values() if each.dtype.is_floating_point or each.dtype.is_complex}
    if len(dtypes) > 1:
        raise UserError(
            f"the network's numbers are of several types, {', '.join(sorted(map(str, dtypes)))}: net.float()"
        )
    first = next(iter(layers.values()))
    header = headers.Header(
        network=headers.Network(*_builder_of(net, network), str(dtypes.pop()).removeprefix("torch.")),  # type: ignore[arg-type]
        weights=headers.Weights(
            first.origin.distribution if first.origin else None,
            first.origin.seed if first.origin else 0,
            first.method.density if first.origin else 1.0,
        ),
        method=headers.Method(type(first.method).__name__, dict(first.method.identity())),
        layers={name: headers.Layer(list(layer.weight.shape), kept=0) for name, layer in layers.items()},
        digests=headers.Digests("", ""),
        density=0.0,
        classes=list(classes),
        accuracy=dict(accuracy or {}),
        preprocessing=dict(preprocessing or {}),
        config=dict(config or {}),
        versions=versions(),
    )
    _check(header)  # before any work is done
    tensors: dict[str, Tensor] = {}
    weights, masks = hashlib.sha256(), hashlib.sha256()
    found = current_masks(net)
    for key, parameter in sorted(net.named_parameters()):
        owner, _, own = key.rpartition(".")
        if owner in layers and own == "weight":
            mask = found[owner].cpu()
            header.layers[owner], weight = _take_down(owner, layers[owner], mask, header.weights, tensors)
            digest.update_(weights, key, weight)
            digest.update_(masks, owner, mask)
        elif own != "scores":
            digest.update_(weights, key, parameter)
            if not _is_neutral(net.get_submodule(owner), own, parameter):
                tensors[f"state/{key}"] = _copy(parameter)
    parameters = dict(net.named_parameters())
    tensors |= {f"state/{key}": _copy(each) for key, each in net.state_dict().items() if key not in parameters}
    kept = sum(layer.kept for layer in header.layers.values())
    header.density, header.digests = kept / header.total, headers.Digests(weights.hexdigest(), masks.hexdigest())
    try:
        container.write(path, header, tensors)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error


def _check(header: headers.Header) -> None:
    """What is written can be read again."""
    try:
        content = json.loads(header.to_json(sha256=""))
        del content["sha256"]
        headers.Header.from_json(content)
    except (TypeError, ValueError) as error:
        raise UserError(f"what is given cannot be written into a .subnet file: {error}") from error


def _take_down(
    name: str, layer: MaskedLayer, mask: Tensor, drawn_from: headers.Weights, tensors: dict[str, Tensor]
) -> tuple[headers.Layer, Tensor]:
    """What is written down of a layer, and its weights as they are read again."""
    weight = layer.weight.detach().cpu()
    drawn, stream = None, ""
    if layer.origin and (layer.origin.distribution, layer.origin.seed) == (drawn_from.distribution, drawn_from.seed):
        stream = layer.origin.layer
        drawn = drawn_from.draw(weight, stream)
    effective = layer.method.effective_weight(weight, mask)
    entry, stored = weight_code.encode(weight, effective, mask, drawn)
    entry.code, data = mask_codec.encode(mask.flatten().numpy())
    entry.stream = stream
    tensors[f"mask/{name}"] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if stored is not None:
        tensors[f"{entry.weights}/{name}"] = stored
        weight_code.decode(entry, stored, mask, out=(weight := torch.empty_like(weight)))
    return entry, weight


def _builder_of(net: nn.Module, named: str | Mapping[str, Any] | None) -> tuple[str, headers.Json]:
    """The name and the arguments of what builds a network, which have been tried."""
    if named is None:
        found = building.find(net)
        if found is None:
            raise UserError(
                f"no function of torchvision.models builds this {type(net).__name__}: name what does, network={{"
                "'class_path': 'lightning_subnets.networks.Conv4', 'init_args': {'image_size': 32}} say; where the "
                "name is of your own package, who loads the file hands the network in"
            )
        return found
    of_config: Any = {"class_path": named} if isinstance(named, str) else named
    if not isinstance(of_config, Mapping) or "." not in str(of_config.get("class_path")):
        raise UserError(
            f"network = {named!r:.100} is no name with its package: 'torchvision.models.resnet18' say, or "
            "{'class_path': 'torchvision.models.resnet18', 'init_args': {'num_classes': 10}}"
        )
    name = of_config["class_path"]
    arguments = {**(of_config.get("init_args") or {}), **(of_config.get("dict_kwargs") or {})}
    if building.builder(name) is None:
        return name, arguments
    # The weights of the network are in the file, so nothing is fetched to build it.
    arguments = {key: value for key, value in arguments.items() if not building.fetches(key)}
    differs = building.difference(building.build(name, arguments), net)
    if differs:
        given = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        raise UserError(f"{given} does not build this network: {differs}; are these all of its arguments?")
    return name, arguments


def _is_neutral(module: nn.Module, key: str, parameter: Tensor) -> bool:
    """As ``mask_`` leaves it: a norm that scales by 1, a shift of 0."""
    return bool((parameter == (0.0 if key == "bias" else 1.0)).all()) and (key == "bias" or isinstance(module, NORMS))


def _copy(tensor: Tensor) -> Tensor:
    # Of its own, for the file's writer refuses tensors that share memory.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
