"""The layers of a network that can be masked."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_subnets.errors import UserError

MASKABLE = (nn.Conv2d, nn.Linear)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def maskable_layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return every Conv2d and Linear by its name, after a check that no other layer but norms has parameters.

    Exact types only, because a subclass may use its weight in a way that a mask would miss.
    """
    kind = type(network).__name__
    layers: dict[str, nn.Conv2d | nn.Linear] = {}
    owners: dict[Tensor, str] = {}
    for name, module in network.named_modules():
        if type(module) in MASKABLE:
            assert isinstance(module, nn.Conv2d | nn.Linear)
            if "weight" not in module._parameters:
                raise UserError(
                    f"the weight of the layer {name!r} of {kind} is computed from other parameters (pruning or weight "
                    "norm of torch.nn.utils): remove that first, so that it is a parameter again"
                )
            if not module.weight.numel() or module.weight.is_meta:
                raise UserError(f"the layer {name!r} of {kind} has no weights to draw: {module}")
            if (owner := owners.setdefault(module.weight, name)) != name:
                raise UserError(f"the layers {owner!r} and {name!r} of {kind} share one weight: give each its own")
            layers[name] = module
        elif not isinstance(module, NORMS) and (own := dict(module.named_parameters(recurse=False))):
            layer = f"{type(module).__module__}.{type(module).__qualname__}"
            raise UserError(
                f"the layer {name!r} of {kind} is a {layer} with parameters of its own ({', '.join(own)}) and cannot "
                "be masked: use torch.nn.Conv2d and torch.nn.Linear, not subclasses of them, and norms between them"
            )
    if not layers:
        raise UserError(f"{kind} has no layer to mask: it needs a torch.nn.Conv2d or torch.nn.Linear")
    return layers
