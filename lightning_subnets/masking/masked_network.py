"""The idea: leave a network's weights as they were drawn, score each, and use only those with the highest scores.

``mask_`` turns a plain network into a masked one in place, and ``unmask_`` turns it back, with the masks folded into
the weights. In between, each layer computes with ``weight * mask``, and the method decides what is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, overload

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import cached_weight, initialization, maskable
from lightning_subnets.masking.masked_layer import MASKED, MaskedLayer, Origin
from lightning_subnets.masking.method import Method, PruningData, current_masks


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

    Layers become ``MaskedConv2d`` and ``MaskedLinear`` and keep their ``weight``, their hooks and their names;
    a method with scores gives each a ``scores`` beside it. All numbers of the network are then a function of the seed:
    weights are drawn, and norms scale by 1, shift by 0 and have their first running statistics. If the method trains
    scores, biases are 0 and everything but the scores is frozen. If the method trains weights, biases are drawn too
    (``initialization.draw_biases``), and everything is trainable; if it chooses masks before training, it does so now.

    Masks follow every change of weights and scores but one that leaves no trace: who edits ``parameter.data`` in place,
    or lets torch.distributed write into a parameter, calls ``cached_weight.invalidate_(layers)``.

    Args:
        network: built of Conv2d, Linear, norms and layers without parameters.
        method: ``EdgePopup(density=0.3)``, ...
        weights: the distribution they are drawn from, see ``initialization.draw_weights``; None leaves weights,
            biases and norms as they are, for a network that is already trained, say.
        seed: of the weights, the biases and the scores; the same seed gives the same bits on every machine.
        batches: of images, float and normalised, and labels, on the network's device, for a method that scores
            weights on data; the others do not look at them.
        input_shape: of one image, (channels, height, width), for a method that needs no data; where there are
            batches, theirs.

    Returns: the same network.
    Raises:
        ValueError: if the network is masked already, has no layer to mask, or has parameters in a layer that
            cannot be masked; if the distribution is unknown; or if the method needs batches or an input shape and
            there is none. The network is then as it was. If the method finds no masks, which its own docstring says
            when, the network is a plain one with the weights drawn.
    """
    scoring = PruningData((), input_shape, seed)
    if isinstance(method, Method) and method.requires:
        scoring = PruningData(list(batches), input_shape, seed).checked_for(method)
    install_masks_(network, method, weights=weights, seed=seed)
    try:
        method.prune_(network, scoring)
    except Exception:
        unmask_(network)
        raise
    return network


def install_masks_(network: nn.Module, method: Method, *, weights: str | None, seed: int) -> None:
    """``mask_``, but that masks which are chosen before training are not chosen yet, and leave all weights in."""
    if not isinstance(method, Method):
        raise UserError(f"{method!r} is no method: EdgePopup(density=0.3) is one, for instance")
    if any(isinstance(module, MaskedLayer) for module in network.modules()):
        raise UserError(f"{type(network).__name__} is masked already: call unmask_(network) first")
    layers = maskable.maskable_layers(network)
    if weights is not None:
        initialization.check_distribution(weights)
        if method.ranks_by_magnitude and method.density < 1 and weights.endswith("signed_constant"):
            raise UserError(
                f"{type(method).__name__} keeps the largest weights, and those of {weights} are all of one size: take "
                "weights='kaiming_normal'"
            )
    elif method.rerandomizes:
        raise UserError(f"{type(method).__name__} draws weights again: name their distribution, kaiming_normal say")
    if method.trainable != "weights":
        network.requires_grad_(False)
    if weights is not None:
        make_affine_neutral_(network)
    for name, layer in layers.items():
        if weights is not None:
            _draw_(layer, weights, seed=seed, name=name, method=method)
        scores = method.initial_scores(layer.weight.shape, seed=seed, layer=name)
        _mask_layer_(layer, method, scores, Origin(weights, seed, name) if weights is not None else None)
    if method.trainable == "last layer":
        list(layers.values())[-1].requires_grad_(True)
    if method.global_ranking:
        for layer in layers.values():
            layer.global_group = tuple(layers.values())  # type: ignore[assignment]


def unmask_(network: nn.Module) -> nn.Module:
    """Make a masked network a plain one again, in place: masks are folded into the weights, and all are trainable.

    Nothing of this package remains in the network, and its state dict is that of the plain network.

    Returns: the same network.
    Raises:
        ValueError: if the network is not masked.
    """
    layers = [layer for _, layer in masked_layers(network)]
    for layer, mask in zip(layers, current_masks(layers), strict=True):
        with torch.no_grad():
            layer.weight.copy_(layer.method.effective_weight(layer.weight, mask))
        del layer.scores, layer.method, layer.num_kept, layer.origin
        cached_weight.invalidate_([layer])
        for key in ("cached", "global_group", "externally_refreshed"):
            layer.__dict__.pop(key, None)
        layer.__class__ = layer.plain  # type: ignore[assignment]
    return network.requires_grad_(True)


def masked_layers(network: nn.Module) -> list[tuple[str, MaskedLayer]]:
    """Return the masked layers with their names, in the network's order.

    Raises:
        ValueError: if there is none.
    """
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, MaskedLayer)]
    if not layers:
        raise UserError(f"{type(network).__name__} is not masked: call mask_(network, method, ...) first")
    return layers


def masks(network: nn.Module) -> dict[str, Tensor]:
    """Return the current mask of each masked layer by its name: boolean, shaped like the layer's ``weight``.

    Raises:
        ValueError: if the network is not masked.
    """
    layers = dict(masked_layers(network))
    return dict(zip(layers, current_masks(list(layers.values())), strict=True))


def invalidate_(network: nn.Module) -> None:
    """Recompute all masks of a network before they are used next, after an edit that leaves no trace.

    Raises:
        ValueError: if the network is not masked.
    """
    cached_weight.invalidate_(layer for _, layer in masked_layers(network))


@overload
def density(network: nn.Module, *, per_layer: Literal[False] = False) -> float: ...


@overload
def density(network: nn.Module, *, per_layer: Literal[True]) -> dict[str, float]: ...


def density(network: nn.Module, *, per_layer: bool = False) -> float | dict[str, float]:
    """Return the fraction of weights kept: kept / total over the masked layers, or of each layer by its name.

    Raises:
        ValueError: if the network is not masked.
    """
    counts = {name: (int(mask.sum()), mask.numel()) for name, mask in masks(network).items()}
    if per_layer:
        return {name: kept / total for name, (kept, total) in counts.items()}
    return sum(kept for kept, _ in counts.values()) / sum(total for _, total in counts.values())


@torch.no_grad()
def make_affine_neutral_(network: nn.Module) -> None:
    """Set biases to 0, norms to scale by 1 and shift by 0, and running statistics to their first values."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
        for key, parameter in module.named_parameters(recurse=False):
            if key == "bias":
                parameter.zero_()
            elif isinstance(module, maskable.NORMS):
                parameter.fill_(1.0)


@torch.no_grad()
def _draw_(layer: nn.Conv2d | nn.Linear, distribution: str, *, seed: int, name: str, method: Method) -> None:
    shape = layer.weight.shape
    layer.weight.copy_(initialization.draw_weights(distribution, shape, seed=seed, layer=name, density=method.density))
    if method.trainable == "weights" and layer.bias is not None:
        layer.bias.copy_(initialization.draw_biases(shape, seed=seed, layer=name))


def _mask_layer_(layer: nn.Conv2d | nn.Linear, method: Method, scores: Tensor | None, origin: Origin | None) -> None:
    layer.__class__ = MASKED[type(layer)]  # type: ignore[assignment]
    assert isinstance(layer, MaskedLayer)
    layer.method, layer.num_kept, layer.origin = method, method.num_kept(layer.weight.numel()), origin
    parameter = None
    if scores is not None:
        # At least float32, however coarse the weights: small steps must not be lost.
        dtype = torch.promote_types(layer.weight.dtype, torch.float32) if scores.is_floating_point() else scores.dtype
        scores = scores.to(layer.weight.device, dtype)
        parameter = nn.Parameter(scores, requires_grad=method.trainable == "scores")
    layer.register_parameter("scores", parameter)
