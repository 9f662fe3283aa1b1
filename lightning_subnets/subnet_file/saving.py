"""Save a masked network into a ``.subnet`` file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_subnets._version import versions
from lightning_subnets.atomic_file import check_place
from lightning_subnets.errors import UserError
from lightning_subnets.masking import MaskedWeight, digest, masked_weights
from lightning_subnets.masking.choice import Norms, norm_parameters
from lightning_subnets.masking.initialization import stream_of
from lightning_subnets.masking.maskable import is_weight
from lightning_subnets.masking.masked_weight import multipliers, scores_names
from lightning_subnets.masking.method import as_mask, check_identity
from lightning_subnets.masking.other_parameters import initial_value, own_name
from lightning_subnets.subnet_file import building, container, multiplier_code, weight_code
from lightning_subnets.subnet_file.header import Digests, Header, Json, Layer, MethodEntry, NetworkEntry, WeightsEntry
from lightning_subnets.subnet_file.tasks import EncodedTask


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
    """Save a masked network into a file: the seed of its weights, and about one bit per weight.

    The masks of n weights at density d take about their entropy, n H(d) bits; so do signs and levels of masks that flip
    or multiply weights. Edges that are not searched take nothing, and neither do weights that the seed gives. Otherwise
    the kept weights are stored, with one bit each if all have the same magnitude. Running statistics are stored, and
    biases and norms if they were trained. Scores are not stored.

    Args:
        net: the masked network, or a wrapper around it, such as ``torch.compile`` returns; it is not changed.
        path: the file to write, by convention with the extension ``.subnet``.
        network: the builder of the network, such as ``"timm.models.resnet.resnet26"``, or its name and arguments as in
            a config, ``{"class_path": "lightning_subnets.networks.Conv4", "init_args": {"image_size": 32}}``. It may be
            left out for an unchanged network of torchvision.models. If it is not in torchvision.models, timm or
            ``lightning_subnets.networks``, ``load_subnet`` needs a network to load into.
        classes: the names of the classes, in the order of the outputs.
        accuracy: accuracies as fractions, by name.
        preprocessing: ``input_shape``, and ``mean`` and ``std`` per channel for values in [0, 1].
        config: the config of the run.
        force: replace an existing file.

    Raises:
        ValueError: if the network is not masked or has several methods, its builder builds another network, its
            parameters have several dtypes, a value is not JSON, or the file exists or cannot be written.
    """
    path, net = Path(path), building.unwrapped(net)
    check_place(path, force=force)
    header = _header(net, network, classes, accuracy, preprocessing, config)
    _write(path, header, net, multipliers(net))


def save_tasks(
    net: nn.Module,
    path: str | Path,
    tasks: Sequence[EncodedTask],
    kept: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    *,
    network: str | Mapping[str, Any] | None,
    classes: Sequence[str],
    preprocessing: Mapping[str, Any] | None,
    force: bool,
) -> None:
    """Save several tasks over the weights of one masked network into a file; see ``save_subnet`` for the arguments.

    Args:
        net: the masked network of the tasks.
        path: the file to write.
        tasks: encoded by ``tasks.encode``.
        kept: the numbers of each weight that some task keeps, boolean.
        start: the values before training of what each task has of its own.
        network: as for ``save_subnet``, like the following.
        classes: of all tasks.
        preprocessing: of all tasks.
        force: replace an existing file.
    """
    path = Path(path)
    check_place(path, force=force)
    header = _header(net, network, classes, None, preprocessing, None)
    header.tasks = [task.entry for task in tasks]
    own = {f"tasks/{index}/{key}": each for index, task in enumerate(tasks) for key, each in task.tensors.items()}
    _write(path, header, net, kept, start=start, tasks=own)


def _header(
    net: nn.Module,
    network: str | Mapping[str, Any] | None,
    classes: Sequence[str],
    accuracy: Mapping[str, float] | None,
    preprocessing: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
) -> Header:
    """Return the header of a network's file, without its masks."""
    if isinstance(classes, str):
        raise UserError(f"classes is the string {classes!r:.100}: give a list of names")
    weights, scores = masked_weights(net), scores_names(net)
    state = {key: each for key, each in net.state_dict().items() if key not in scores}
    building.check_tensors(state, "a .subnet file")
    dtypes = {each.dtype for each in state.values() if each.dtype.is_floating_point or each.dtype.is_complex}
    if len(dtypes) > 1:
        raise UserError(f"the network has several dtypes, {', '.join(sorted(map(str, dtypes)))}: call net.float()")
    first = next(iter(weights.values()))
    if len(methods := list(dict.fromkeys(repr(each.method) for each in weights.values()))) > 1:
        raise UserError(
            f"the network has several methods, {' and '.join(methods)}, but a .subnet file holds one: mask the whole "
            "network by one method, where densities={...} gives a weight a density of its own"
        )
    return Header(
        network=NetworkEntry(*_builder_of(net, network), str(dtypes.pop()).removeprefix("torch.")),  # type: ignore[arg-type]
        weights=WeightsEntry(
            first.origin.distribution if first.origin else None,
            first.origin.seed if first.origin else 0,
            first.origin.density if first.origin else 1.0,
        ),
        method=MethodEntry(type(first.method).__name__, dict(first.method.identity())),
        layers={name: Layer(list(each.weight.shape), kept=0) for name, each in weights.items()},
        digests=Digests("", ""),
        density=0.0,
        norms=_norms(net, first.method.trainable),
        classes=list(classes),
        accuracy=dict(accuracy or {}),
        preprocessing=dict(preprocessing or {}),
        config=dict(config or {}),
        versions=versions(),
    )


def _write(
    path: Path,
    header: Header,
    net: nn.Module,
    multiplier: Mapping[str, Tensor],
    *,
    start: Mapping[str, Tensor] | None = None,
    tasks: Mapping[str, Tensor] | None = None,
) -> None:
    """Complete the header of a network with these multipliers, or with these tasks, and write the file."""
    _check_readable(header)  # before the masks are encoded
    tensors: dict[str, Tensor] = dict(tasks or {})
    weights, scores = masked_weights(net), scores_names(net)
    method = next(iter(weights.values())).method
    counts = method.counts({key: each.weight.shape for key, each in weights.items()})  # as loading counts
    weights_digest, masks_digest = hashlib.sha256(), hashlib.sha256()
    for key, current in sorted(net.named_parameters()):
        if key in weights:
            entry, weight, restored, parts = _encode_weight(key, weights[key], multiplier[key].cpu(), header.weights)
            if counts[key] not in (None, weights[key].num_kept):
                entry.num_kept = weights[key].num_kept
            if tasks is None:
                header.layers[key] = entry
                tensors |= parts
            else:  # each task has its own code and tensors
                header.layers[key] = replace(entry, code="", gain=None, of="weight")
            digest.update_(weights_digest, key, weight)
            digest.update_(masks_digest, key, restored)
        elif key not in scores:
            parameter = (start or {}).get(key, current)
            digest.update_(weights_digest, key, parameter)
            if _is_drawn(net, key, parameter, header.weights):
                header.dense[key] = stream_of(key)
            elif not _is_initial(net, key, parameter, header.weights):
                tensors[f"state/{key}"] = _copy(parameter)
    every_name = dict(net.named_parameters(remove_duplicate=False))  # a tied parameter has several
    for key, buffer in net.state_dict().items():
        if key not in every_name:
            tensors[f"state/{key}"] = _copy((start or {}).get(key, buffer))
    header.density = header.kept / header.total
    header.digests = Digests(weights_digest.hexdigest(), masks_digest.hexdigest())
    plain = building.num_elements(net) - sum(
        each.scores.numel() for each in weights.values() if each.scores is not None
    )
    numbers = max(plain, header.total * max(1, len(header.tasks)))
    container.write(path, header, tensors, numbers=numbers)


def _norms(net: nn.Module, trainable: str) -> Norms:
    trained = trainable == "scores" and any(each.requires_grad for each in norm_parameters(net))
    return "trained" if trained else "frozen"


def _check_readable(header: Header) -> None:
    try:
        content = json.loads(header.to_json(sha256=""))
        del content["sha256"]
        Header.from_json(content)
    except (TypeError, ValueError) as error:
        check_identity(header.method.name, header.method.arguments)
        raise UserError(f"a .subnet file cannot hold these values: {error}") from error


def _encode_weight(
    name: str, masked: MaskedWeight, multiplier: Tensor, drawn_from: WeightsEntry
) -> tuple[Layer, Tensor, Tensor, dict[str, Tensor]]:
    """Return a weight's header entry, w and m as ``load_subnet`` restores them, and its tensors in the file."""
    weight, origin = masked.weight.detach().cpu(), masked.origin
    drawn, stream, density = None, "", None
    if origin and (origin.distribution, origin.seed) == (drawn_from.distribution, drawn_from.seed):
        stream, density = origin.stream, origin.density if origin.density != drawn_from.density else None
        drawn = origin.draw(weight.shape).to(weight.dtype)
    effective = masked.method.effective_weight(weight, multiplier)
    entry, stored, multiplier = weight_code.encode(weight, effective, multiplier, drawn)
    found = multiplier_code.encode(entry, multiplier, masked.frozen_edges)
    parts = {f"{part}/{name}": data for part, data in found.items()}
    entry.stream, entry.density = stream, density
    if stored is not None:
        parts[f"{entry.weights}/{name}"] = stored
        weight = torch.empty_like(weight)
        weight_code.decode(entry, stored, as_mask(multiplier), out=weight)
    return entry, weight, multiplier, parts


def _builder_of(net: nn.Module, named: str | Mapping[str, Any] | None) -> tuple[str, Json]:
    """Return the name and the arguments of the network's builder, after checking that it builds this network."""
    if named is None:
        if (found := building.identify(net)) is None:
            raise UserError(
                f"no function of torchvision.models builds this {type(net).__name__}: name its builder, for instance "
                "network={'class_path': 'lightning_subnets.networks.Conv4', 'init_args': {'image_size': 32}}"
            )
        return found
    config: Any = {"class_path": named} if isinstance(named, str) else named
    config = config if isinstance(config, Mapping) else {}
    name, arguments = config.get("class_path"), config.get("init_args") or {}
    if not (isinstance(name, str) and "." in name and isinstance(arguments, Mapping)):
        raise UserError(
            f"network = {named!r:.100} does not name a builder with its package, as 'torchvision.models.resnet18' and "
            "{'class_path': 'torchvision.models.resnet18', 'init_args': {'num_classes': 10}} do"
        )
    arguments = {**arguments, **(config.get("dict_kwargs") or {})}
    if name.startswith("timm.") and name.endswith(".create_model") and isinstance(arguments.get("model_name"), str):
        name = f"timm.models.{arguments['model_name'].partition('.')[0]}"  # the function that builds it, without a tag
        of_the_factory = ("model_name", "scriptable", "exportable", "no_jit")
        arguments = {key: each for key, each in arguments.items() if key not in of_the_factory and each is not None}
    if building.builder(name) is None:
        return name, arguments
    # The file has the network's weights, so load_subnet need not download any. JSON has lists for tuples.
    arguments = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in arguments.items()
        if not building.downloads_weights(key)
    }
    if differs := building.difference(building.build(name, arguments), net):
        call = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        raise UserError(
            f"{call} does not build this network: {differs}. Check its arguments, and state those that pretrained "
            "weights have set"
        )
    return name, arguments


def _is_drawn(net: nn.Module, key: str, parameter: Tensor, drawn_from: WeightsEntry) -> bool:
    """Return whether a parameter that is not masked is a weight as ``mask_`` draws it: kept dense, and not trained."""
    owner, _, own = key.rpartition(".")
    if drawn_from.distribution is None or not is_weight(net.get_submodule(owner), own, parameter):
        return False
    drawn = drawn_from.origin(stream_of(key), density=1.0).draw(parameter.shape)
    return digest.same_bits(parameter, drawn.to(parameter.dtype))


def _is_initial(net: nn.Module, key: str, parameter: Tensor, drawn_from: WeightsEntry) -> bool:
    """Return whether a parameter other than a weight has its value from ``mask_``, whatever value it was built with."""
    owner, _, own = key.rpartition(".")
    module, built = net.get_submodule(owner), torch.zeros_like(parameter)
    if is_weight(module, own, parameter) or not built.numel():
        return False
    value = initial_value(module, own_name(key), built, seed=drawn_from.seed, stream=stream_of(key))
    return value is not None and digest.same_bits(parameter, value.to(parameter.dtype))


def _copy(tensor: Tensor) -> Tensor:
    # safetensors refuses tensors that share memory.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
