"""The tasks of a file that has several: encode what each has of its own, and read them all again."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import digest, is_masked, masked_weights
from lightning_subnets.masking.masked_weight import scores_names
from lightning_subnets.masking.method import as_mask
from lightning_subnets.masking.other_parameters import initialize_others_
from lightning_subnets.subnet_file import multiplier_code, weight_code
from lightning_subnets.subnet_file.container import Container, naming_file
from lightning_subnets.subnet_file.header import Header, Json, Task, TaskLayer
from lightning_subnets.subnet_file.loading import copy_, load_from, multiplier_of


@dataclass
class LearnedTask:
    """What a task has of its own.

    Attributes:
        multipliers: the m of w_eff = w * m by the weight's name: boolean, or int8 if the method flips or multiplies.
        state: buffers, such as running statistics, and trained norms, by their names.
        accuracy: on the task's test images, a fraction, if it is known.
        preprocessing: of the task's images, where it differs from that of the others.
    """

    multipliers: dict[str, Tensor]
    state: dict[str, Tensor]
    accuracy: float | None = None
    preprocessing: Json = field(default_factory=dict)


@dataclass
class EncodedTask:
    """A task as a file holds it: its entry in the header, and its tensors by the names that they have in the task."""

    entry: Task
    tensors: dict[str, Tensor]


def encode(name: str, task: LearnedTask, net: nn.Module, start: Mapping[str, Tensor]) -> EncodedTask:
    """Encode a task over the drawn weights of a masked network.

    ``start`` has the values before training of what a task has of its own. Those that the task did not change are not
    stored.

    Raises:
        ValueError: if the effective weights of the method do not follow from weights and masks.
    """
    layers: dict[str, TaskLayer] = {}
    tensors: dict[str, Tensor] = {}
    for key, masked in masked_weights(net).items():
        weight, multiplier = masked.weight.detach().cpu(), task.multipliers[key].cpu()
        effective = masked.method.effective_weight(weight, multiplier)
        layer, stored, multiplier = weight_code.encode(weight, effective, multiplier, drawn=weight)
        if stored is not None:
            raise UserError(
                f"{type(masked.method).__name__} computes with weights that a file with tasks cannot hold: expected "
                "weight * mask, times one gain for each weight"
            )
        parts = multiplier_code.encode(layer, multiplier, masked.frozen_edges)
        tensors |= {f"{part}/{key}": data for part, data in parts.items()}
        layers[key] = TaskLayer(**{each.name: getattr(layer, each.name) for each in fields(TaskLayer)})
    masks_digest = digest.digest_of({key: task.multipliers[key] for key in layers})
    state = {key: each.cpu() for key, each in task.state.items() if not digest.same_bits(each, start[key])}
    tensors |= {f"state/{key}": each.contiguous() for key, each in state.items()}
    weights_digest = (
        _weights_digest(net, task.state) if any(key in state for key, _ in net.named_parameters()) else None
    )
    entry = Task(name, masks_digest, [*layers.values()], weights_digest, task.accuracy, task.preprocessing)
    return EncodedTask(entry, tensors)


def load_tasks(path: str | Path, network: nn.Module | None) -> tuple[nn.Module, dict[str, LearnedTask]]:
    """Return the masked network of a file with tasks, as it was before training, and the tasks by their names.

    Args:
        path: of the file.
        network: a masked network that the tasks go into, or a plain one, or None to build the file's.

    Raises:
        ValueError: as ``load_subnet`` does, and if the masked network has other weights, masks others of them, or has
            another method.
    """
    file = Container(path, whole=True)
    with naming_file(path):
        tasks = file.header.tasks
        if not tasks:
            raise UserError("it has no tasks: load_subnet(path) loads it")
        if network is None or not is_masked(network):
            network = load_from(file.of_task(tasks[0].name), masked=True, network=network)
            _restart_(network, file)
        else:
            _check_same(network, file.header)
        learned = {task.name: _read(file.of_task(task.name), task, network) for task in tasks}
        _check_union(file.header, learned)
        return network, learned


def own_state(net: nn.Module) -> dict[str, Tensor]:
    """Return the buffers and the parameters of a masked network, beside its scores, that training changes."""
    frozen = {key for key, each in net.named_parameters(remove_duplicate=False) if not each.requires_grad}
    every = net.state_dict(keep_vars=True)
    return {key: each for key, each in every.items() if key not in frozen | scores_names(net)}


@torch.no_grad()
def _restart_(net: nn.Module, file: Container) -> None:
    """Give a masked network the scores, and what each task has of its own, from before training."""
    weights, own = masked_weights(net), own_state(net)
    initialize_others_(net, {key for key, _ in net.named_parameters() if key not in own}, seed=file.header.weights.seed)
    for key, each in own.items():
        if f"state/{key}" in file:
            copy_(file, key, each)
    for masked in weights.values():
        if masked.scores is not None and masked.origin is not None:
            _, seed, stream, _ = masked.origin
            first = masked.method.initial_scores(masked.weight.shape, seed=seed, stream=stream)
            masked.scores.copy_(torch.as_tensor(first))


def _check_same(net: nn.Module, header: Header) -> None:
    weights = masked_weights(net)
    method = next(iter(weights.values())).method
    found = digest.weights_digest(net), type(method).__name__, dict(method.identity())
    if found != (header.digests.weights, header.method.name, header.method.arguments):
        raise UserError(
            f"its tasks are masks by {header.method.name}({reprlib.repr(header.method.arguments):.200}) over the "
            f"weights {header.digests.weights[:16]}..., and the masked network has {method!r} and {found[0][:16]}...: "
            "give the network that the tasks were trained on, before training"
        )
    theirs = {name: layer.frozen for name, layer in header.layers.items()}
    ours = {name: each.frozen_edges and multiplier_code.stated(each.frozen_edges) for name, each in weights.items()}
    for name in theirs | ours:
        if name not in theirs or name not in ours or theirs[name] != ours[name]:
            raise UserError(
                f"the weight {name!r:.100} is masked in another way in its tasks than in the masked network: mask the "
                "network with the keep_dense, also_mask and densities of the first task"
            )


def union(tasks: Iterable[LearnedTask]) -> dict[str, Tensor]:
    """Return which numbers of each weight some task keeps."""
    kept: dict[str, Tensor] = {}
    for task in tasks:
        for key, multiplier in task.multipliers.items():
            mask = as_mask(multiplier)
            kept[key] = kept[key] | mask.to(kept[key].device) if key in kept else mask
    return kept


def _check_union(header: Header, tasks: Mapping[str, LearnedTask]) -> None:
    kept = union(tasks.values())
    for key, mask in kept.items():
        if (count := int(mask.sum())) != (stated := header.layers[key].kept):
            raise UserError(f"its tasks keep {count} numbers of {key!r:.100} together, and the file states {stated}")
    if digest.digest_of(kept) != header.digests.masks:
        raise UserError("the masks of all tasks together do not have the digest that the file states")


def _read(file: Container, task: Task, net: nn.Module) -> LearnedTask:
    """Read what a task has of its own, and check its digest."""
    found = {key: multiplier_of(file, key) for key in file.header.layers}
    if digest.digest_of(found) != file.header.digests.masks:
        raise UserError("the masks of a task do not have the digest that the file states")
    state = {key: each.detach().clone() for key, each in own_state(net).items()}
    for key, each in state.items():
        if f"state/{key}" in file:
            copy_(file, key, each)
    file.check_all_taken(of_task=True)
    return LearnedTask(found, state, task.accuracy, task.preprocessing)


def _weights_digest(net: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Return ``digest.weights_digest`` with the norms of a task."""
    return digest.digest_of({key: state.get(key, parameter) for key, parameter in digest.weights(net).items()})
