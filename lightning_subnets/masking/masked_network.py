"""The idea: leave a network's weights as they were drawn, score each, and use only those with the highest scores.

``mask_`` turns a plain network into a masked one in place, and ``unmask_`` folds the masks into the weights. In
between, each module computes with ``weight * mask``, and the method decides what is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from lightning_subnets.masking import cached_weight, initialization, masked_class, masked_weight
from lightning_subnets.masking.choice import Choice, Norms, Plan, norm_parameters, plan, warn_of_matrices
from lightning_subnets.masking.maskable import Weight, padding_row
from lightning_subnets.masking.masked_weight import MaskState, Origin, masked_weights, scores_key, states_of
from lightning_subnets.masking.method import Method, PruningData
from lightning_subnets.masking.other_parameters import initialize_others_

Network = TypeVar("Network", bound=nn.Module)


def mask_(
    network: Network,
    method: Method,
    *,
    weights: str | None = "auto",
    seed: int = 0,
    batches: Iterable[tuple[Tensor, Tensor]] = (),
    input_shape: tuple[int, ...] | None = None,
    keep_dense: Iterable[str] = (),
    also_mask: Iterable[str] = (),
    densities: Mapping[str, float] | None = None,
    norms: Norms = "frozen",
) -> Network:
    """Mask the weights of a network in place, including those of the first and the last layer.

    A weight is a parameter named ``weight``, ``*_weight`` or ``weight_*`` with two dimensions or more, except those of
    norms and embeddings, see ``maskable.is_weight``; ``also_mask`` names others. Reading it, ``module.weight``, gives
    the effective weight w * m; ``raw_weight(module, "weight")`` gives the Parameter. State dicts keep their keys, and a
    method with scores adds ``scores`` beside ``weight`` and ``in_proj_weight_scores`` beside ``in_proj_weight``.

    If weights are drawn, all numbers of the network become a function of the seed, see
    ``other_parameters.initial_value``: norms scale by 1 and shift by 0, running statistics are reset. If the method
    trains scores, biases are 0 and everything else is frozen. If the method trains weights, biases are drawn too (of
    modules that share a weight, only that of the first). A method that prunes before training does so now.

    The masks follow every change of weights and scores. Two changes leave no trace: after an in-place edit of
    ``parameter.data``, or a torch.distributed collective on a parameter, call ``invalidate_(network)``.

    Args:
        network: any network.
        method: for instance ``EdgePopup(density=0.3)``.
        weights: the distribution that weights are drawn from, see ``initialization.draw_weights``. None leaves all
            numbers of the network as they are, for instance pretrained. By default, ``signed_constant`` for a method
            that trains scores, and None for a method that trains weights.
        seed: of weights, biases and scores; the same seed gives the same bits on every machine.
        batches: pairs of images, float and normalised, and labels, int64, on the network's device, for a method that
            scores weights on data.
        input_shape: of one image, (channels, height, width), for a method that prunes without data; by default the
            shape of the images in ``batches``.
        keep_dense: patterns of the weights that stay dense, see ``Choice``; they are drawn like the others.
        also_mask: patterns of further parameters to mask.
        densities: fraction of weights kept by pattern, for methods that fix the number kept of each weight; the last
            pattern that matches counts.
        norms: ``trained`` trains the scales and shifts of norms beside the scores, as the variant with
            trained norms of Diffenderfer and Kailkhura 2021.

    Returns: the same network.

    Raises:
        ValueError: if the network is already masked or cannot be masked, the distribution is unknown, a pattern matches
            nothing, or the method lacks batches or an input shape, or finds no masks. After any exception the network
            is as it was.
    """
    choice = Choice.of(keep_dense, also_mask, densities, norms)
    planned = plan(network, method, weights, choice)
    warn_of_matrices(network, choice)
    data = PruningData(list(batches) if method.requires else (), input_shape, seed).checked_for(method)
    with _unchanged_after_an_error(network):
        _install_(network, method, seed, planned, norms)
        method.prune_(network, data)
    return network


def install_masks_(
    network: nn.Module, method: Method, *, weights: str | None, seed: int, choice: Choice | None = None
) -> None:
    """Mask a network as ``mask_`` does, but without pruning: the masks of a ``PruneAtInit`` keep all weights."""
    choice = choice or Choice()
    planned = plan(network, method, weights, choice)
    with _unchanged_after_an_error(network):
        _install_(network, method, seed, planned, choice.norms)


@torch.no_grad()
def _install_(network: nn.Module, method: Method, seed: int, planned: Plan, norms: Norms) -> None:
    distribution = planned.distribution
    trained = {parameter: parameter.requires_grad for parameter in network.parameters()}
    if distribution is not None:
        initialize_others_(network, planned.masked.keys() | planned.dense.keys(), seed=seed)
    if method.trainable != "weights":
        network.requires_grad_(False)
    if norms == "trained":
        for parameter in norm_parameters(network):
            parameter.requires_grad_(True)
    for name, each in (planned.masked | planned.dense).items():
        density = planned.densities.get(name, 1.0)
        scale = density or 1.0  # an allocation may keep nothing of a weight, and sqrt(1 / 0) is no scale
        stream = initialization.stream_of(name)
        origin = None if distribution is None else Origin(distribution, seed, stream, scale)
        if origin is not None:
            _draw_(each, origin, biases=method.trainable == "weights")
        if name in planned.masked:
            edges = method.frozen_edges(each.parameter.shape, density, seed=seed, stream=stream)
            with torch.inference_mode(False), torch.no_grad():  # scores made in inference mode cannot be trained
                scores = method.initial_scores(each.parameter.shape, seed=seed, stream=stream)
                masked_class.install_(each.owners, MaskState(method, planned.num_kept[name], origin, edges), scores)
    for parameter in trained:
        if not parameter.requires_grad:  # no optimizer of the scores would clear its gradient, and clipping counts it
            parameter.grad = None
    masked = list(masked_weights(network).values())
    if method.trainable == "last layer":
        weights = planned.masked | planned.dense
        *_, last = (weights[name] for name, _ in network.named_parameters() if name in weights)
        for parameter in last.owners[0][0].parameters(recurse=False):
            parameter.requires_grad_(True)
    if method.global_ranking:
        for weight in masked:
            weight.state.global_group = masked
    if method.draws_masks:
        network.register_forward_pre_hook(draw_masks_again_)
    _remember_trained_(network, trained)


def _remember_trained_(network: nn.Module, trained: Mapping[nn.Parameter, bool]) -> None:
    """Note in each module which parameters in it, or below it, were trained or frozen before masking and now are not.

    Each module has a note, because a part of the network may be unmasked; and of all below it, because
    ``convert_sync_batchnorm`` replaces modules. By name, because parameters are replaced too.
    """
    for module in network.modules():
        named = module.named_parameters(remove_duplicate=False)
        note = {key: trained[each] for key, each in named if each in trained and each.requires_grad != trained[each]}
        module.__dict__.pop("_trained_before_masking", None)  # that of a part that was unmasked by itself
        if note:
            module.__dict__["_trained_before_masking"] = note


def draw_masks_again_(network: nn.Module, *_: object) -> None:
    """Make a network with a sampled mask draw another, which all reads in one forward pass then share."""
    for module in network.modules():
        for state in states_of(module).values():
            state.drawn = None


@torch.no_grad()
def unmask_(network: Network) -> Network:
    """Turn a masked network into a plain one in place: fold the masks into the weights.

    Nothing of this package remains in the network, and its state dict is that of the plain network. Parameters that
    ``mask_`` has frozen are trainable again, and no others, whether the network is the one that was masked, a part of
    it, or a wrapper around it. (In a part that was unmasked before, parameters that you have frozen since become
    trainable too.) If a method ranks the scores of all layers together, unmask the whole network, because the other
    parts have no masks without it.

    Returns: the same network.

    Raises:
        ValueError: if the network is not masked, an effective weight was edited in place, so that the edit would be
            lost, or a score on a CPU is NaN.
    """
    weights, multipliers = masked_weights(network), masked_weight.multipliers(network)
    cached_weight.check_unedited(weights.values())
    for name, each in weights.items():
        each.weight.copy_(each.method.effective_weight(each.weight, multipliers[name]))
    for module in network.modules():
        if states := states_of(module):
            module.__class__ = masked_class.plain_class(module)
            del module.__dict__["_masked"]
            for of_weight in states:
                del module._parameters[scores_key(of_weight)]
        for key, hook in list(module._forward_pre_hooks.items()):
            if hook is draw_masks_again_:
                del module._forward_pre_hooks[key]
        note = module.__dict__.pop("_trained_before_masking", {})
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if name in note:
                parameter.requires_grad_(note[name])
    return network


def invalidate_(network: Network) -> Network:
    """Make a network recompute all masks at their next use, after an edit that leaves no trace (see ``mask_``).

    It also drops an in-place edit of an effective weight, for which everything else raises an error. (An edit through
    its ``.data`` leaves no trace either. If a method draws its masks, an edit is lost without an error, because each
    read is a new tensor.)

    Returns: the same network.

    Raises:
        ValueError: if the network is not masked.
    """
    cached_weight.drop_(masked_weights(network).values(), with_edits=True)
    return network


@overload
def density(network: nn.Module, *, per_weight: Literal[False] = False) -> float: ...


@overload
def density(network: nn.Module, *, per_weight: Literal[True]) -> dict[str, float]: ...


def density(network: nn.Module, *, per_weight: bool = False) -> float | dict[str, float]:
    """Return the density, the fraction of weights kept: the number of m != 0 over the number of masked weights.

    Args:
        network: masked.
        per_weight: return the density of each masked weight by its full name.

    Raises:
        ValueError: if the network is not masked, or a score on a CPU is NaN.
    """
    counts = {name: (int(mask.sum()), mask.numel()) for name, mask in masked_weight.masks(network).items()}
    if per_weight:
        return {name: kept / total for name, (kept, total) in counts.items()}
    return sum(kept for kept, _ in counts.values()) / sum(total for _, total in counts.values())


def _draw_(weight: Weight, origin: Origin, *, biases: bool) -> None:
    """Draw a weight, and the bias of its module if biases are trained."""
    parameter, (module, key) = weight.parameter, weight.owners[0]
    parameter.copy_(origin.draw(parameter.shape))
    for owner, _ in weight.owners:  # a dense weight may also be the table of an embedding
        if (row := padding_row(owner)) is not None:
            parameter[row] = 0
    bias = module._parameters.get("bias")
    if biases and key == "weight" and bias is not None:
        fan_in = initialization.fans(parameter.shape)[0]
        bias.copy_(initialization.draw_biases(bias.shape, fan_in=fan_in, seed=origin.seed, stream=origin.stream))


@contextmanager
def temporarily_unmasked(network: nn.Module) -> Iterator[nn.Module]:
    """Give a masked network its plain classes and all its weights for as long as the context lasts."""
    # A copy of the plain network must not hold on to the memory of cached weights.
    cached_weight.drop_(masked_weights(network).values())
    modules = [(module, type(module), states_of(module)) for module in network.modules() if states_of(module)]
    scores = [(module, key, module._parameters.pop(scores_key(key))) for module, _, keys in modules for key in keys]
    try:
        for module, _, _ in modules:
            module.__class__ = masked_class.plain_class(module)
            del module.__dict__["_masked"]
        yield network
    finally:
        for module, kind, states in modules:
            module.__dict__["_masked"] = states
            module.__class__ = kind
        for module, key, parameter in scores:
            module.register_parameter(scores_key(key), parameter)


@contextmanager
def _unchanged_after_an_error(network: nn.Module) -> Iterator[None]:
    """Give a network its numbers, classes, attributes, gradients and ``requires_grad`` back after an error."""
    tensors = [*network.parameters(), *network.buffers()]
    values = [(each.detach().clone(), each.requires_grad, each.grad) for each in tensors]
    modules = [(module, type(module), dict(vars(module)), dict(module._parameters)) for module in network.modules()]
    hooks = dict(network._forward_pre_hooks)
    try:
        yield
    except BaseException:
        for module, kind, attributes, parameters in modules:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._parameters.clear()
            module._parameters.update(parameters)
        network._forward_pre_hooks.clear()
        network._forward_pre_hooks.update(hooks)
        with torch.no_grad():
            for tensor, (value, trained, gradient) in zip(tensors, values, strict=True):
                tensor.requires_grad_(trained)
                if not (0 in tensor.stride() and torch.equal(tensor, value)):  # an expanded buffer cannot be written to
                    tensor.copy_(value)
                tensor.grad = gradient
        raise
