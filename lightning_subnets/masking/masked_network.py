"""The idea: leave a network's weights as they were drawn, score each, and use only those with the highest scores.

``mask_`` turns a plain network into a masked one in place, and ``unmask_`` folds the masks into the weights. In
between, each layer computes with ``weight * mask``, and the method decides what is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, overload

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import cached_weight, initialization, maskable, masked_layer
from lightning_subnets.masking.masked_layer import MaskedLayer, Origin, masked_layers
from lightning_subnets.masking.method import Method, PruningData


def mask_(
    network: nn.Module,
    method: Method,
    *,
    weights: str | None = "signed_constant",
    seed: int = 0,
    batches: Iterable[tuple[Tensor, Tensor]] = (),
    input_shape: tuple[int, ...] | None = None,
) -> nn.Module:
    """Mask every Conv2d and Linear of a network in place, including the first and the last.

    Layers become ``MaskedConv2d`` and ``MaskedLinear`` and keep their ``weight``, hooks and names; a method with scores
    adds ``scores`` beside each weight. All numbers of the network become a function of the seed: weights are drawn,
    norms scale by 1 and shift by 0, and running statistics are reset. If the method trains scores, biases are 0 and
    everything else is frozen. If the method trains weights, biases are drawn too and everything is trainable. A method
    that prunes before training does so now.

    The masks follow every change of weights and scores. Two changes leave no trace: after an in-place edit of
    ``parameter.data``, or a torch.distributed collective on a parameter, call ``invalidate_(network)``.

    Args:
        network: built of Conv2d, Linear, norms and layers without parameters.
        method: for instance ``EdgePopup(density=0.3)``.
        weights: the distribution that weights are drawn from, see ``initialization.draw_weights``. None leaves
            weights, biases and norms of a trained network as they are.
        seed: of weights, biases and scores; the same seed gives the same bits on every machine.
        batches: pairs of images, float and normalised, and labels, int64, on the network's device, for a method that
            scores weights on data.
        input_shape: of one image, (channels, height, width), for a method that prunes without data; by default the
            shape of the images in ``batches``.

    Returns: the same network.

    Raises:
        ValueError: if the network is already masked or cannot be masked, the distribution is unknown, or the method
            lacks batches or an input shape; the network is then unchanged. If the method finds no masks, the network
            is a plain one with the weights drawn.
    """
    layers = _find_layers(network, method, weights)
    data = PruningData(list(batches) if method.requires else (), input_shape, seed).checked_for(method)
    _install_(network, layers, method, weights, seed)
    try:
        method.prune_(network, data)
    except Exception:
        unmask_(network)
        raise
    return network


def install_masks_(network: nn.Module, method: Method, *, weights: str | None, seed: int) -> None:
    """Mask a network as ``mask_`` does, but without pruning: the masks of a ``PruneAtInit`` keep all weights."""
    _install_(network, _find_layers(network, method, weights), method, weights, seed)


def unmask_(network: nn.Module) -> nn.Module:
    """Turn a masked network into a plain one in place: fold the masks into the weights, and make all trainable.

    Nothing of this package remains in the network, and its state dict is that of the plain network.

    Returns: the same network.
    """
    kept = masked_layer.masks(network)
    for name, layer in masked_layers(network):
        masked_layer.remove_(layer, kept[name])
    return network.requires_grad_(True)


def invalidate_(network: nn.Module) -> None:
    """Make a network recompute all masks at their next use, after an edit that leaves no trace (see ``mask_``)."""
    cached_weight.invalidate_(layer for _, layer in masked_layers(network))


@overload
def density(network: nn.Module, *, per_layer: Literal[False] = False) -> float: ...


@overload
def density(network: nn.Module, *, per_layer: Literal[True]) -> dict[str, float]: ...


def density(network: nn.Module, *, per_layer: bool = False) -> float | dict[str, float]:
    """Return the fraction of weights kept: kept / total over the masked layers, or of each layer by its name."""
    counts = {name: (int(mask.sum()), mask.numel()) for name, mask in masked_layer.masks(network).items()}
    if per_layer:
        return {name: kept / total for name, (kept, total) in counts.items()}
    return sum(kept for kept, _ in counts.values()) / sum(total for _, total in counts.values())


@torch.no_grad()
def make_affine_neutral_(network: nn.Module) -> None:
    """Set biases to 0, let norms scale by 1 and shift by 0, and reset running statistics."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
        for key, parameter in module.named_parameters(recurse=False):
            if key == "bias":
                parameter.zero_()
            elif isinstance(module, maskable.NORMS):
                parameter.fill_(1.0)


def _find_layers(network: nn.Module, method: Method, weights: str | None) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return the layers to mask by name, after every check that needs no data."""
    if not isinstance(method, Method):
        raise UserError(f"{method!r} is not a method: pass an instance, EdgePopup(density=0.3) is one")
    if any(isinstance(module, MaskedLayer) for module in network.modules()):
        raise UserError(f"{type(network).__name__} is masked already: call unmask_(network) first")
    if weights is not None:
        initialization.check_distribution(weights)
        if method.ranks_by_magnitude and method.density < 1 and weights.endswith("signed_constant"):
            raise UserError(
                f"{type(method).__name__} keeps the largest weights, but all weights of {weights} have one magnitude: "
                "use weights='kaiming_normal'"
            )
    elif method.rerandomizes:
        raise UserError(f"{type(method).__name__} re-draws weights: name a distribution, weights='kaiming_normal'")
    return maskable.maskable_layers(network)


@torch.no_grad()
def _install_(
    network: nn.Module, layers: dict[str, nn.Conv2d | nn.Linear], method: Method, weights: str | None, seed: int
) -> None:
    if weights is not None:
        make_affine_neutral_(network)
    if method.trainable != "weights":
        network.requires_grad_(False)
    for name, layer in layers.items():
        shape = layer.weight.shape
        if weights is not None:
            drawn = initialization.draw_weights(weights, shape, seed=seed, layer=name, density=method.density)
            layer.weight.copy_(drawn)
            if method.trainable == "weights" and layer.bias is not None:
                layer.bias.copy_(initialization.draw_biases(shape, seed=seed, layer=name))
        scores = method.initial_scores(shape, seed=seed, layer=name)
        origin = Origin(weights, seed, name) if weights is not None else None
        masked_layer.install_(layer, method, scores, origin)
    if method.trainable == "last layer":
        list(layers.values())[-1].requires_grad_(True)
    if method.global_ranking:
        for layer in layers.values():
            layer.global_group = tuple(layers.values())  # type: ignore[assignment]
