"""A mask from elsewhere: that of another run, as it is or shuffled."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, get_type_hints

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from lightning_subnets import masking, methods, subnet_file
from lightning_subnets.errors import UserError
from lightning_subnets.masking import initialization, selection
from lightning_subnets.masking.method import Method, Scoring
from lightning_subnets.masking.method import masks as present_masks
from lightning_subnets.masking.prune_at_init import Chosen
from lightning_subnets.training import checkpoint
from lightning_subnets.training.schema import first_mistake


class Given(Chosen):
    """The weights are trained under a mask that is there already.

    With the seed and the distribution of the run that found it they are the weights it was found on; with others they
    are drawn again under it.

    Args:
        masks: the checkpoint of the run whose mask it is, of whatever method, or a ``.subnet`` file; or, in Python, the
            mask of each layer by its name.
        shuffle: move what is kept to other places of its layer, at random by the seed, each as likely.

    Raises:
        ValueError: when the masks are put on, if the checkpoint is missing, or of a method that is not in this package,
            or the masks are of another network or not boolean.
    Source: Frankle et al. 2021, "Pruning Neural Networks at Initialization", section 5, and Su et al. 2020,
        "Sanity-Checking Pruning Methods", section 3, for what shuffling and drawing again tell of a method.
    """

    density = 1.0  # for a scaled distribution: the weights are drawn as for a dense network

    def __init__(self, masks: str | Mapping[str, Any], shuffle: bool = False) -> None:
        self.masks_given, self.shuffle = masks, shuffle

    def identity(self) -> dict[str, Any]:
        # Not where they came from, which need not be there any more.
        return {"shuffle": self.shuffle}

    def choose(self, network: nn.Module, scoring: Scoring) -> dict[str, Tensor]:
        given = self.masks_given
        masks = masks_from(given, network) if isinstance(given, str) else dict(given)
        return shuffled(masks, scoring.seed) if self.shuffle else masks


def shuffled(masks: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Masks that keep as many weights of each layer, any as likely as any other."""
    return {
        name: selection.top_k(
            initialization.draw_chances(mask.shape, seed=seed, layer=f"{name} shuffled"), int(mask.count_nonzero())
        ).to(mask.device)
        for name, mask in masks.items()
    }


def masks_from(path: str, network: nn.Module) -> dict[str, Tensor]:
    """The masks of a checkpoint or of a ``.subnet`` file.

    Args:
        network: plain, built as that of the file; it stays as it is.

    Raises:
        ValueError: if the file cannot be read, or a checkpoint is of another network, or of a method that this package
            does not have.
    """
    if path.endswith(".subnet"):
        device = next(network.parameters()).device
        return {name: mask.to(device) for name, mask in subnet_file.masks_in(path).items()}
    return masks_of(checkpoint.read(path), network)


def masks_of(content: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
    """The masks that a checkpoint's run has.

    Args:
        content: of the checkpoint, see ``checkpoint.read``.
        network: plain, built as that of the run; it stays as it is.

    Raises:
        ValueError: if the run is of another network, or of a method that this package does not have.
    """
    identity, device = content["subnet"], next(network.parameters()).device
    chosen = {
        key.removeprefix("network.").removesuffix(".scores"): value.to(device)
        for key, value in content["state_dict"].items()
        if key.endswith(".scores") and value.dtype == torch.bool
    }
    if chosen:  # before training: they are there as they are
        return chosen
    twin = copy.deepcopy(network)
    masking.begin_(twin, _method(identity), weights=identity["weights"], seed=identity["seed"])
    if checkpoint.in_float64(content):
        twin.double()
    layers = dict(masking.masked_layers(twin))
    states = {key.removeprefix("network."): value for key, value in content["state_dict"].items()}
    own = {key: value for key, value in twin.state_dict().items() if key in states or key.endswith(".scores")}
    checkpoint.check_shapes({key: states[key] for key in states if not key.startswith("metrics.")}, own)
    twin.load_state_dict(states, strict=False)
    return {name: mask.to(device) for name, mask in zip(layers, present_masks(list(layers.values())), strict=True)}


def _method(identity: Mapping[str, Any]) -> Method:
    name = identity["method"]
    if name not in methods.__all__:
        raise UserError(f"the checkpoint is of the method {name}, which is not one of {', '.join(methods.__all__)}")
    arguments = {key: value for key, value in identity.items() if key not in ("network", "method", "weights", "seed")}
    kind = getattr(methods, name)
    types = get_type_hints(kind.__init__)
    try:
        for key in arguments.keys() & types.keys():
            TypeAdapter(types[key]).validate_python(arguments[key], strict=True)
        method: Method = kind(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"the checkpoint is of a {name} that cannot be: {first_mistake(error)}") from error
    if missing := method.identity().keys() - arguments.keys():
        raise UserError(f"the checkpoint is of a {name} without {min(missing)}: it is damaged or of another version")
    return method
