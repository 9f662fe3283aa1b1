"""The idea: leave a network's weights as they were drawn, give each a score, use only the best.

``mask_`` turns a plain network into a masked one in place; ``unmask_`` turns it back, with the mask folded
into the weights. In between, a layer computes with ``weight * mask`` and what is trained is up to the method.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import cached_weight, initialization, maskable
from lightning_subnets.masking.method import Method, Scoring, masks


class StraightThrough(torch.autograd.Function):
    """The weight that a masked layer computes with, and a gradient that passes through the choice of the mask.

    Forward:  w_eff = w * m, by ``method.product`` of ``method.masks``; made before, by ``masked_weights``.
    Backward: dL/dw and dL/ds from dL/dw_eff, by ``method.weight_gradient`` and ``method.score_gradient``.

    Args (to ``apply``):
        product, mask: w_eff and m.
        weight, scores: w and s, to which the gradients go.
        method: the layer's.

    Returns: w_eff.
    """

    @staticmethod
    def forward(
        ctx: Any, product: Tensor, mask: Tensor | None, weight: Tensor, scores: Tensor | None, method: Method
    ) -> Tensor:
        ctx.method = method
        ctx.save_for_backward(mask, weight, scores)
        return product.view_as(product)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor | None, Tensor | None, None]:
        (gradient,), method = gradients, ctx.method
        mask, weight, scores = ctx.saved_tensors
        _, _, to_weight, to_scores, _ = ctx.needs_input_grad
        return (
            None,
            None,
            _strides_of(weight, method.weight_gradient(gradient, mask)) if to_weight else None,
            _strides_of(scores, method.score_gradient(gradient, weight, scores)) if to_scores else None,
            None,
        )


def _strides_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the parameter's strides, if it is laid out like it.

    A dimension of size 1 may have any stride, and elementwise operations give it another one than convolutions do in
    channels_last. DistributedDataParallel takes that for another layout, and warns.
    """
    both = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
    if gradient.stride() != parameter.stride() and all(size == 1 or ours == theirs for size, ours, theirs in both):
        return gradient.as_strided(parameter.shape, parameter.stride())
    return gradient  # what is laid out otherwise, torch copies


class Origin(NamedTuple):
    """Where a layer's weights were drawn from, see ``initialization.draw_weights``."""

    distribution: str
    seed: int
    layer: str


class MaskedLayer(nn.Module):
    """What every masked layer has beside its plain parameters."""

    plain: ClassVar[type[nn.Module]]
    weight: Tensor
    scores: nn.Parameter | None
    method: Method
    num_kept: int | None  # None where it is not fixed beforehand
    origin: Origin | None  # None where the weights came with the network
    peers: tuple[MaskedLayer, ...] = ()  # all layers of the network, where its mask depends on their scores too
    made: cached_weight.Made | None = None
    refreshed_outside = False

    def masked_weight(self) -> Tensor:
        """The weight that the layer computes with, w_eff."""
        if not self.method.made_before:
            return self.method.masked_weight(self)
        weight: Tensor = StraightThrough.apply(*cached_weight.made(self), self.weight, self.scores, self.method)
        return weight

    def mask(self) -> Tensor:
        """The present mask, boolean, shaped like ``weight``."""
        return masks([self])[0]

    def _apply(self, *args: Any, **kwargs: Any) -> MaskedLayer:
        """What was made on another device, or in another precision, is not kept."""
        cached_weight.forget_([self])
        return super()._apply(*args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its masked weight anew, from its own weight and scores."""
        return {**super().__getstate__(), "made": None, "refreshed_outside": False}  # type: ignore[no-untyped-call]


class MaskedConv2d(MaskedLayer, nn.Conv2d):
    """A convolution by its masked weight. Source: Ramanujan et al. 2020, Eq. 23."""

    plain = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self._conv_forward(input, self.masked_weight(), self.bias)
        return output


class MaskedLinear(MaskedLayer, nn.Linear):
    """A fully connected layer by its masked weight. Source: Ramanujan et al. 2020, Eq. 4."""

    plain = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.masked_weight(), self.bias)


MASKED: dict[type[nn.Module], type[MaskedLayer]] = {layer.plain: layer for layer in (MaskedConv2d, MaskedLinear)}


def mask_(
    network: nn.Module,
    method: Method,
    *,
    weights: str | None = "signed_constant",
    seed: int = 0,
    batches: Iterable[tuple[Tensor, Tensor]] = (),
    input_shape: tuple[int, ...] | None = None,
) -> nn.Module:
    """Make a network a masked one, in place; every Conv2d and Linear in it, the first and the last included.

    Layers become ``MaskedConv2d`` and ``MaskedLinear`` and keep their ``weight``, their hooks and their names;
    a method with scores gives each a ``scores`` beside it. All numbers of the network are then a function of the seed:
    weights are drawn, and norms scale by 1, shift by 0 and have their first running statistics. If the method trains
    scores, biases are 0 and everything but the scores is frozen. If the method trains weights, biases are drawn too
    (``initialization.draw_biases``), and everything is trainable; if it chooses masks before training, it does so now.

    Masks follow every change of weights and scores but one that leaves no trace: who edits ``parameter.data`` in place,
    or lets torch.distributed write into a parameter, calls ``cached_weight.forget_(layers)``.

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
    scoring = Scoring((), input_shape, seed)
    if isinstance(method, Method) and method.needs:
        scoring = Scoring(list(batches), input_shape, seed).checked_for(method)
    begin_(network, method, weights=weights, seed=seed)
    try:
        method.choose_(network, scoring)
    except Exception:
        unmask_(network)
        raise
    return network


def begin_(network: nn.Module, method: Method, *, weights: str | None, seed: int) -> None:
    """``mask_``, but that masks which are chosen before training are not chosen yet, and leave all weights in."""
    if not isinstance(method, Method):
        raise UserError(f"{method!r} is no method: EdgePopup(density=0.3) is one, for instance")
    if any(isinstance(module, MaskedLayer) for module in network.modules()):
        raise UserError(f"{type(network).__name__} is masked already: call unmask_(network) first")
    layers = maskable.maskable_layers(network)
    if weights is not None:
        initialization.check_distribution(weights)
        if method.by_magnitude and method.density < 1 and weights.endswith("signed_constant"):
            raise UserError(
                f"{type(method).__name__} keeps the largest weights, and those of {weights} are all of one size: take "
                "weights='kaiming_normal'"
            )
    elif method.redraws:
        raise UserError(f"{type(method).__name__} draws weights again: name their distribution, kaiming_normal say")
    if method.trains != "weights":
        network.requires_grad_(False)
    if weights is not None:
        make_affine_neutral_(network)
    for name, layer in layers.items():
        if weights is not None:
            _draw_(layer, weights, seed=seed, name=name, method=method)
        scores = method.initial_scores(layer.weight.shape, seed=seed, layer=name)
        _mask_layer_(layer, method, scores, Origin(weights, seed, name) if weights is not None else None)
    if method.trains == "last layer":
        list(layers.values())[-1].requires_grad_(True)
    if method.across_layers:
        for layer in layers.values():
            layer.peers = tuple(layers.values())  # type: ignore[assignment]


def unmask_(network: nn.Module) -> nn.Module:
    """Make a masked network a plain one again, in place: the mask is folded into the weights, all trainable.

    Nothing of this package remains in it; its state dict is that of the plain network.

    Returns: the same network.
    Raises:
        ValueError: if the network is not masked.
    """
    layers = [layer for _, layer in masked_layers(network)]
    for layer, mask in zip(layers, masks(layers), strict=True):
        with torch.no_grad():
            layer.weight.copy_(layer.method.product(layer.weight, mask))
        del layer.scores, layer.method, layer.num_kept, layer.origin
        cached_weight.forget_([layer])
        for key in ("made", "peers", "refreshed_outside"):
            layer.__dict__.pop(key, None)
        layer.__class__ = layer.plain  # type: ignore[assignment]
    return network.requires_grad_(True)


def masked_layers(network: nn.Module) -> list[tuple[str, MaskedLayer]]:
    """The masked layers and their names, in the order of the network.

    Raises:
        ValueError: if there is none.
    """
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, MaskedLayer)]
    if not layers:
        raise UserError(f"{type(network).__name__} is not masked: call mask_(network, method, ...) first")
    return layers


@overload
def density(network: nn.Module, *, per_layer: Literal[False] = False) -> float: ...


@overload
def density(network: nn.Module, *, per_layer: Literal[True]) -> dict[str, float]: ...


def density(network: nn.Module, *, per_layer: bool = False) -> float | dict[str, float]:
    """The fraction of weights kept: kept / total over the masked layers, or of each by its name.

    Raises:
        ValueError: if the network is not masked.
    """
    layers = dict(masked_layers(network))
    found = zip(layers, masks(list(layers.values())), strict=True)
    counts = {name: (int(mask.sum()), mask.numel()) for name, mask in found}
    if per_layer:
        return {name: kept / total for name, (kept, total) in counts.items()}
    return sum(kept for kept, _ in counts.values()) / sum(total for _, total in counts.values())


@torch.no_grad()
def make_affine_neutral_(network: nn.Module) -> None:
    """Biases 0; norms scale by 1 and shift by 0, and remember nothing of other weights."""
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
    if method.trains == "weights" and layer.bias is not None:
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
        parameter = nn.Parameter(scores, requires_grad=method.trains == "scores")
    layer.register_parameter("scores", parameter)
