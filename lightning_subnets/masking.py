"""The idea: leave a network's weights as they were drawn, give each a score, use only the best.

``mask_`` turns a plain network into a masked one in place; ``unmask_`` turns it back, with the mask folded
into the weights. In between, a layer computes with ``weight * mask`` and what is trained is up to the method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, overload

import torch
from torch import Tensor, nn

from lightning_subnets import allocation, initialization, maskable, masked_weights
from lightning_subnets.errors import UserError


class StraightThrough(torch.autograd.Function):
    """The weight that a masked layer computes with, and a gradient that passes through the choice of the mask.

    Forward:  w_eff = w * m, m = ``method.masks``; made before, by ``masked_weights``.
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


class Method(ABC):
    """How a subnetwork is found: what is trained, where scores start, the masks they give, and their gradient.

    A method is one small class in one file of ``methods/``.
    """

    trains: ClassVar[Literal["scores", "weights"]]
    made_before: ClassVar[bool] = True  # w * m is kept from one change to the next; if not, override masked_weight
    density: float

    @abstractmethod
    def initial_scores(self, shape: torch.Size, *, seed: int, layer: str) -> Tensor | None:
        """A layer's first scores, float32 on the CPU, or None for a method without scores."""

    @abstractmethod
    def masks(self, layers: Sequence[MaskedLayer]) -> list[Tensor]:
        """The masks of these layers, boolean: a pure function of their weights, scores and numbers kept."""

    def weight_gradient(self, gradient: Tensor, mask: Tensor) -> Tensor:
        """dL/dw, from dL/dw_eff: what the mask lets through."""
        return gradient * mask

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        """dL/ds, from dL/dw_eff."""
        raise NotImplementedError(f"{type(self).__name__} does not train scores")

    def masked_weight(self, layer: MaskedLayer) -> Tensor:
        """The weight that a layer computes with, w * m."""
        weight: Tensor = StraightThrough.apply(*masked_weights.made(layer), layer.weight, layer.scores, self)
        return weight


class MaskedLayer(nn.Module):
    """What every masked layer has beside its plain parameters."""

    plain: ClassVar[type[nn.Module]]
    weight: Tensor
    scores: nn.Parameter | None
    method: Method
    num_kept: int
    made: masked_weights.Made | None = None
    refreshed_outside = False

    def masked_weight(self) -> Tensor:
        return self.method.masked_weight(self)

    def mask(self) -> Tensor:
        """The present mask, boolean, shaped like ``weight``."""
        return self.method.masks([self])[0]

    def _apply(self, *args: Any, **kwargs: Any) -> MaskedLayer:
        """What was made on another device, or in another precision, is not kept."""
        masked_weights.forget_([self])
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


def mask_(network: nn.Module, method: Method, *, weights: str | None = "signed_constant", seed: int = 0) -> nn.Module:
    """Make a network a masked one, in place; every Conv2d and Linear in it, the first and the last included.

    Layers become ``MaskedConv2d`` and ``MaskedLinear`` and keep their ``weight``, their hooks and their names;
    a method with scores gives each a ``scores`` beside it. For a method that trains scores the network is then a
    random one that stays as it is: biases are 0, norms scale by 1, shift by 0 and have the running
    statistics they start with, and everything but the scores is frozen. For a method that trains weights, biases and
    norms stay as they are, and trainable.

    Masks follow every change of weights and scores but one that leaves no trace: who edits ``parameter.data`` in place,
    or lets torch.distributed write into a parameter, calls ``masked_weights.forget_(layers)``.

    Args:
        network: built of Conv2d, Linear, norms and layers without parameters.
        method: ``EdgePopup(density=0.3)``, ...
        weights: the distribution they are drawn from, see ``initialization.draw_weights``; None leaves weights,
            biases and norms as they are, for a network that is already trained, say.
        seed: of the weights and the scores; the same seed gives the same bits on every machine.

    Returns: the same network.
    Raises:
        ValueError: if the network is masked already, has no layer to mask, or has parameters in a layer that
            cannot be masked; or if the distribution is unknown. The network is then as it was.
    """
    if not isinstance(method, Method):
        raise UserError(f"{method!r} is no method: EdgePopup(density=0.3) is one, for instance")
    if any(isinstance(module, MaskedLayer) for module in network.modules()):
        raise UserError(f"{type(network).__name__} is masked already: call unmask_(network) first")
    layers = maskable.maskable_layers(network)
    if weights is not None:
        initialization.check_distribution(weights)
    kept = allocation.uniform({name: layer.weight.numel() for name, layer in layers.items()}, method.density)
    if method.trains == "scores":
        if weights is not None:
            _make_affine_neutral_(network)
        network.requires_grad_(False)
    for name, layer in layers.items():
        if weights is not None:
            _draw_(layer.weight, weights, seed=seed, layer=name, density=method.density)
        scores = method.initial_scores(layer.weight.shape, seed=seed, layer=name)
        _mask_layer_(layer, method, kept[name], scores)
    return network


def unmask_(network: nn.Module) -> nn.Module:
    """Make a masked network a plain one again, in place: the mask is folded into the weights, all trainable.

    Nothing of this package remains in it; its state dict is that of the plain network.

    Returns: the same network.
    Raises:
        ValueError: if the network is not masked.
    """
    for _, layer in masked_layers(network):
        with torch.no_grad():
            layer.weight.mul_(layer.mask())
        del layer.scores, layer.method, layer.num_kept
        masked_weights.forget_([layer])
        for key in ("made", "refreshed_outside"):
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
    counts = {name: (int(layer.mask().sum()), layer.weight.numel()) for name, layer in masked_layers(network)}
    if per_layer:
        return {name: kept / total for name, (kept, total) in counts.items()}
    return sum(kept for kept, _ in counts.values()) / sum(total for _, total in counts.values())


@torch.no_grad()
def _make_affine_neutral_(network: nn.Module) -> None:
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
def _draw_(weight: Tensor, distribution: str, *, seed: int, layer: str, density: float) -> None:
    drawn = initialization.draw_weights(distribution, weight.shape, seed=seed, layer=layer, density=density)
    weight.copy_(drawn)


def _mask_layer_(layer: nn.Conv2d | nn.Linear, method: Method, num_kept: int, scores: Tensor | None) -> None:
    layer.__class__ = MASKED[type(layer)]  # type: ignore[assignment]
    assert isinstance(layer, MaskedLayer)
    layer.method, layer.num_kept = method, num_kept
    parameter = None
    if scores is not None:
        # At least float32, however coarse the weights: small steps must not be lost.
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        scores = scores.to(layer.weight.device, dtype)
        parameter = nn.Parameter(scores, requires_grad=method.trains == "scores")
    layer.register_parameter("scores", parameter)
