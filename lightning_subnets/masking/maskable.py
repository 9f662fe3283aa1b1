"""Which parameters of a network are weights, and which of them are masked."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from lightning_subnets.errors import UserError
from lightning_subnets.masking.masked_weight import scores_key

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
# The forward passes of torch's own batch norms, which compute the same; a subclass may compute more.
BATCH_NORM_FORWARDS = {_BatchNorm.forward, nn.SyncBatchNorm.forward}

# Their tables are masked only if the user names them: most rows have no gradient in a step.
_TABLES = (nn.Embedding, nn.EmbeddingBag)

Value = TypeVar("Value")


class Weight(NamedTuple):
    """A parameter, which may be a weight or not, with (module, name in it) of every module that owns it."""

    owners: list[tuple[nn.Module, str]]

    @property
    def parameter(self) -> nn.Parameter:
        module, key = self.owners[0]
        return module._parameters[key]  # type: ignore[return-value]

    @property
    def named(self) -> bool:
        """Whether it is a weight by its name, see ``is_weight``."""
        return any(is_weight(*own, self.parameter) for own in self.owners)

    @property
    def named_by_all(self) -> bool:
        """Whether it is a weight by its name in every module that owns it."""
        return all(is_weight(*own, self.parameter) for own in self.owners)


class Weights(NamedTuple):
    """The parameters of a network by their full names: weights to mask, weights that stay dense, and all others."""

    masked: dict[str, Weight]
    dense: dict[str, Weight]
    others: dict[str, Weight]


def is_weight(module: nn.Module, key: str, parameter: Tensor) -> bool:
    """Return whether a parameter is a weight by its name and shape.

    A weight is named ``weight``, ``*_weight`` or ``weight_*``. It has at least two dimensions in a convolution or a
    Linear, and elsewhere at least two dimensions larger than 1. Norms and embeddings have no weights in this sense.
    """
    named = key == "weight" or key.endswith("_weight") or key.startswith("weight_")
    if not named or isinstance(module, (*NORMS, *_TABLES)):
        return False
    if isinstance(module, _ConvNd | nn.Linear):
        return parameter.dim() >= 2
    return is_matrix(parameter)


def is_matrix(parameter: Tensor) -> bool:
    """Return whether at least two dimensions of a parameter are larger than 1."""
    return sum(size > 1 for size in parameter.shape) >= 2


def padding_row(module: nn.Module) -> int | None:
    """Return the row of an embedding that stands for padding and is 0; it never gets a gradient."""
    return module.padding_idx if isinstance(module, _TABLES) else None


def weights_of(network: nn.Module, also: Container[str] = ()) -> dict[str, Weight]:
    """Return the weights of a plain network by name, see ``is_weight``, whichever of them are masked.

    ``also`` has the names of further parameters to return.

    Raises:
        ValueError: if there is none, or the weight of a layer is not a parameter.
    """
    _check_modules(network, type(network).__name__)
    if not (weights := {name: each for name, each in parameters_of(network).items() if each.named or name in also}):
        raise _none_in(network)
    return weights


def find_weights(network: nn.Module, *, keep_dense: Iterable[str] = (), also_mask: Iterable[str] = ()) -> Weights:
    """Return the weights of a plain network to mask and to keep dense, after the checks that masking needs.

    Args:
        network: to be masked; it is not changed.
        keep_dense: patterns of names of weights or of their modules, as ``fnmatch`` reads them: ``head.*``.
        also_mask: patterns of further parameters to mask.

    Raises:
        ValueError: if a pattern matches nothing, a weight cannot be masked, or there is none.
    """
    kind = type(network).__name__
    _check_modules(network, kind)
    parameters = parameters_of(network)
    weights = {name: each for name, each in parameters.items() if each.named}
    also = matching(also_mask, parameters, "also_mask")
    chosen = weights | also
    dense = matching(keep_dense, chosen, "keep_dense")
    for name, each in also.items():
        if each.parameter.dim() < 2:
            raise UserError(
                f"also_mask: {name} has shape {tuple(each.parameter.shape)}, and a weight has two dimensions or more: "
                "leave it out"
            )
    masked = {name: each for name, each in parameters.items() if name in chosen and name not in dense}
    others = {name: each for name, each in parameters.items() if name not in chosen}
    for name, each in masked.items():
        _check(kind, name, each, asked_for=name in also)
    if not masked:
        raise _none_in(network)
    return Weights(masked, dense, others)


def _none_in(network: nn.Module) -> UserError:
    kind = type(network).__name__
    return UserError(f"{kind} has no weight to mask: it needs a parameter of two dimensions, as in a Linear")


def matching(patterns: Iterable[str], values: Mapping[str, Value], argument: str) -> dict[str, Value]:
    """Return the values whose name, or whose module's name, matches a pattern."""
    found: dict[str, Value] = {}
    for pattern in patterns:
        if pattern in values:  # a name, as files give thousands
            found[pattern] = values[pattern]
            continue
        here = {
            name: value
            for name, value in values.items()
            if fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)
        }
        if not here:
            meant = f". Did you mean {pattern + '.*'!r}?" if any(n.startswith(f"{pattern}.") for n in values) else ""
            raise UserError(f"{argument}: no weight matches {pattern!r}; the names are {', '.join(values)}{meant}")
        found |= here
    return found


def parameters_of(network: nn.Module) -> dict[str, Weight]:
    """Return all parameters by their first names, with all modules that own them."""
    by_id: dict[int, tuple[str, Weight]] = {}
    for name, module in network.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                _, weight = by_id.setdefault(id(parameter), (f"{name}.{key}" if name else key, Weight([])))
                weight.owners.append((module, key))
    return dict(by_id.values())


def _check(kind: str, name: str, weight: Weight, *, asked_for: bool) -> None:
    parameter = weight.parameter
    for module, key in weight.owners:
        layer = type(module).__name__
        if not asked_for and not is_weight(module, key, parameter):
            raise UserError(
                f"the weight {name!r} of {kind} is also the {key} of a {layer}, which is not masked: name it in "
                f"also_mask=[{name!r}] to mask both, or in keep_dense=[{name!r}] to mask neither"
            )
        if isinstance(module, nn.RNNBase):
            raise UserError(
                f"{name!r} of {kind} belongs to a {layer}, whose weights cannot be masked, because it copies them into "
                f"one block of memory: keep_dense=[{name.rpartition('.')[0] + '.*' if '.' in name else 'weight_*'!r}]"
            )
        if isinstance(module, torch.fx.GraphModule):
            raise UserError(
                f"{name!r} of {kind} is a parameter of a traced module itself, whose copies would lose the mask: "
                f"wrap what has it in a module before tracing, or keep_dense=[{name!r}]"
            )
        if isinstance(module, _TABLES) and module.max_norm is not None:
            raise UserError(f"{name!r} of {kind} is an {layer} with max_norm, which changes its rows: build it without")
        if hasattr(module, scores := scores_key(key)):
            raise UserError(f"the module of {name!r} of {kind}, a {layer}, has an attribute {scores!r}: rename it")
    if not parameter.numel() or parameter.is_meta:
        raise UserError(
            f"{name!r} of {kind} has no weights to draw, because it is empty or on the meta device (shape "
            f"{tuple(parameter.shape)}, {parameter.device}): build it on a real device, or keep_dense=[{name!r}]"
        )
    if not parameter.is_floating_point():
        raise UserError(
            f"{name!r} of {kind} has dtype {parameter.dtype}, and weights are floating-point numbers: "
            f"keep_dense=[{name!r}]"
        )


def _check_modules(network: nn.Module, kind: str) -> None:
    """Refuse modules whose weights are not parameters, because they would stay dense without a word."""
    for name, module in network.named_modules():
        layer = f"the layer {name!r} of {kind}"
        tensors = {key: value for key, value in vars(module).items() if isinstance(value, Tensor)}
        pruned = any(f"{key}_orig" in module._parameters and is_weight(module, key, tensors[key]) for key in tensors)
        computed = "weight" in tensors and any(key.startswith("weight_") for key in module._parameters)
        if parametrize.is_parametrized(module) or pruned or computed:
            raise UserError(
                f"the weight of {layer} is computed from other parameters (pruning, parametrization, weight norm or "
                "spectral norm of torch.nn.utils): remove that first, so that it is a parameter again"
            )
        if "weight" in tensors and is_weight(module, "weight", tensors["weight"]):
            raise UserError(f"the weight of {layer} is a tensor and no parameter: make it one, or a buffer if constant")
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(f"{layer} is a scripted module, whose code cannot be changed: mask the original network")
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise UserError(f"{layer} is quantized, so it has no weights to mask: mask first and quantize later")
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise UserError(f"{layer} is lazy, so it has no weights yet: pass a batch through the network first")
