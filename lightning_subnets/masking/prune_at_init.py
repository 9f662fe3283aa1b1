"""The methods that choose their masks before training, and train the weights under them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from lightning_subnets.errors import UserError, listed
from lightning_subnets.masking import cached_weight
from lightning_subnets.masking.maskable import find_weights
from lightning_subnets.masking.masked_network import temporarily_unmasked
from lightning_subnets.masking.masked_weight import check_shapes, masked_weights, scores_of
from lightning_subnets.masking.method import Method, PruningData, ScoredWeight


class PruneAtInit(Method):
    """A method that chooses its masks before training and then trains the weights under them.

    The ``scores`` of a weight are its mask, boolean and frozen. A checkpoint stores them, so a run resumes without the
    data that the masks were chosen on.
    """

    trainable = "weights"
    density = 1.0  # what scaled distributions scale by, if a method states no density of its own

    @abstractmethod
    def compute_masks(self, network: nn.Module, data: PruningData) -> dict[str, Tensor]:
        """Return the boolean mask of each weight by its name, from a plain network.

        ``weights_to_mask(network, data)`` returns these weights.

        The method must leave the parameters unchanged. Gradients, buffers such as the statistics of norms, and the mode
        of each module are restored afterwards; at first no parameter has a gradient.
        """

    def num_kept(self, total: int) -> None:
        return None

    def initial_scores(self, shape: torch.Size, *, seed: int, stream: str) -> Tensor:
        return torch.ones(shape, dtype=torch.bool, device="cpu")

    def scores_for_mask(self, mask: Tensor, scores: Tensor) -> Tensor:
        return mask

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        return [each.clone() for each in scores_of(weights)]

    def prune_(self, network: nn.Module, data: PruningData) -> None:
        data = data._replace(weights=tuple(masked_weights(network)))
        with (
            temporarily_unmasked(network),
            restored(network),
            torch.inference_mode(False),  # which has no gradients
            torch.compiler.set_stance("force_eager"),  # compiling would take longer than the few passes of a score
        ):
            masks = self.compute_masks(network, data)
        set_masks_(network, masks)


@contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Begin without gradients, and give a network its gradients, buffers and modes back at the end."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    network.zero_grad()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):  # an expanded buffer cannot be written to
                    buffer.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def weights_to_mask(network: nn.Module, data: PruningData) -> dict[str, nn.Parameter]:
    """Return the parameters that the method chooses masks for, by their full names.

    Args:
        network: plain, as ``compute_masks`` gets it.
        data: its ``weights`` names them; if it names none, these are the weights that ``mask_`` masks by default.

    Raises:
        ValueError: if ``data`` names none, and the network has no weight to mask or one that cannot be masked.
    """
    return {name: network.get_parameter(name) for name in data.weights or find_weights(network).masked}


@torch.no_grad()
def set_masks_(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set the masks of a network whose method is a ``PruneAtInit``, in place."""
    weights = masked_weights(network)
    if masks.keys() < weights.keys():
        missing = [name for name in weights if name not in masks]
        raise UserError(f"there is no mask of {listed(missing)}: add masks, or name these weights in keep_dense")
    check_shapes(masks, {name: each.weight for name, each in weights.items()}, "the masks are")
    for name, weight in weights.items():
        if masks[name].dtype != torch.bool:
            raise UserError(f"the mask of {name} is {masks[name].dtype}, but a mask is boolean: pass mask.bool()")
        assert weight.scores is not None
        weight.scores.copy_(masks[name])


@torch.no_grad()
def share_masks_(network: nn.Module) -> None:
    """Give all ranks the masks of rank 0, in place.

    On GPUs the order of additions, and so a gradient and a mask, may differ from rank to rank.
    """
    for weight in masked_weights(network).values():
        if weight.scores is not None and not weight.scores.requires_grad:
            distributed.broadcast(weight.scores.view(torch.uint8), src=0)
            cached_weight.drop_([weight])  # a broadcast leaves no trace
