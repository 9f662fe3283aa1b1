"""SynFlow and SynFlow-L2: keep the weights that carry most of what can flow from input to output, without any data."""

from __future__ import annotations

import copy
from abc import abstractmethod

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import allocation, prune_at_init
from lightning_subnets.masking.maskable import maskable_layers
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit


class _Flow(PruneAtInit):
    """What both share: rounds of scoring the weights that are left by the flow through them, and pruning some.

    theta is what the network computes with here instead of its parameters, none of it negative; R the sum of the
    outputs for an image of ones; score = theta * dR/dtheta, the part of R that flows through a weight. After round i of
    n, density^(i/n) of all weights are left, those of the highest scores over all layers together, to the exact
    number; what is pruned stays pruned.

    Where activations are ReLU or linear, pools take a maximum or mean, and norms are batch norm, the flow into a unit
    is the flow out of it: the scores of its incoming weights, and what its bias adds, sum to those of its outgoing
    weights. So each layer of a chain without biases holds R in all; where paths part, as at a shortcut, the layers
    beside each other do. Enough rounds then never empty a layer of a chain while another holds more than one weight;
    a layer beside a shortcut they may. With other activations (SiLU, GELU) or norms (layer norm) scores are |theta *
    dR/dtheta| and none of this holds, nor is R sure to be positive.

    All is done in float64 (6 s of a CPU core a round for ResNet-50 at 224 px, 2 s at 64): R is about 1e70 for ResNet-50
    and 1e220 for ResNet-152, out of float32's range. Batch norm is in evaluation, with the statistics that it starts
    with, whatever it has seen: a mean that is subtracted would bring back the signs. Dropout is off. Once no more
    weights carry a flow than are to be kept, the others that are left, all of score 0, are kept in the order of the
    layers. Every weight before a norm that scales by 0 has the score 0 too: timm builds ResNets with such norms unless
    ``zero_init_last=False``, and ``weights=None`` keeps those norms.

    Args:
        density: fraction of all weights kept, in (0, 1].
        rounds: in which they are chosen.

    Raises:
        ValueError: if an argument is out of range.
    """

    requires = "input_shape"

    def __init__(self, density: float, rounds: int = 100) -> None:
        self.density = allocation.check_density(density)
        if rounds < 1:
            raise UserError(
                f"rounds = {rounds} is below 1: 100 in the paper; 1 chooses all at once, and empties layers"
            )
        self.rounds = rounds

    @staticmethod
    @abstractmethod
    def theta_(parameter: Tensor) -> None:
        """Make a parameter into its theta, in place."""

    def compute_masks(self, network: nn.Module, scoring: PruningData) -> dict[str, Tensor]:
        assert scoring.input_shape is not None
        flow = self.positive(network)
        layers = maskable_layers(flow)
        total = sum(layer.weight.numel() for layer in layers.values())
        masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()}
        for step in prune_at_init.progress(range(1, self.rounds + 1), type(self).__name__):
            # Only among what is left, or a pruned weight might return in place of one that is left without a flow.
            left = {name: scores[masks[name]] for name, scores in self.scores(flow, scoring.input_shape).items()}
            kept = allocation.global_(left, allocation.num_kept(total, self.density ** (step / self.rounds)))
            for name, layer in layers.items():
                masks[name] = masks[name].masked_scatter(masks[name], kept[name])
                layer.weight.detach().mul_(masks[name])
        return masks

    def positive(self, network: nn.Module) -> nn.Module:
        """A copy that computes with theta, in float64 and in evaluation."""
        flow = copy.deepcopy(network).double().eval().requires_grad_(False)
        for module in flow.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.reset_running_stats()
        for parameter in flow.parameters():
            self.theta_(parameter)
        return flow

    def scores(self, flow: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """theta * dR/dtheta of the weights of each layer, by its name; 0 where a layer has no part in the output.

        Args:
            flow: made by ``positive``.
            input_shape: of one image, (c, h, w).

        Raises:
            ValueError: if a score is not finite.
        """
        weights = {name: layer.weight.requires_grad_() for name, layer in maskable_layers(flow).items()}
        with torch.enable_grad():
            ones = torch.ones(1, *input_shape, dtype=torch.float64, device=next(iter(weights.values())).device)
            try:
                total = flow(ones).sum()
            except (RuntimeError, ValueError, IndexError) as error:
                raise UserError(
                    f"{type(flow).__name__} cannot take an image of shape {input_shape}: {error}"
                ) from error
            gradients = torch.autograd.grad(total, list(weights.values()), materialize_grads=True)
        # In their own memory, and NaN is the largest: these passes take as long as the network.
        scores = {
            name: gradient.mul_(weight.detach()).abs_()
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }
        for name, each in scores.items():
            if not each.max().isfinite():
                raise UserError(
                    f"{type(self).__name__} cannot score the layer {name!r} of {type(flow).__name__}: what flows "
                    "through its weights is beyond 1e308, or a weight is NaN. Networks of more than 200 layers take "
                    "SynFlowL2, whose flow stays small, or weights drawn smaller"
                )
        return scores


class SynFlow(_Flow):
    __doc__ = f"""Iterative synaptic flow pruning: all parameters by their absolute values, theta = |w|.

    R = sum over paths of the product of their |w|; score = |w * dR/d|w||. The public code leaves float64 commented
    out, lets a trained batch norm subtract |mean|, and prunes all of several equal scores at the threshold.

    {_Flow.__doc__}
    Source: Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow",
        arXiv:2006.05467, section 6, Algorithm 1; Theorems 1 to 3.
    """

    @staticmethod
    def theta_(parameter: Tensor) -> None:
        parameter.abs_()


class SynFlowL2(_Flow):
    __doc__ = f"""SynFlow on squares: all parameters by their squares, theta = w^2.

    R2 = sum over paths of the product of their w^2; score = w^2 * dR2/d(w^2). The sum of dR2/d(w^2) over the weights
    that are kept is the trace of the path kernel before training, up to the eps of norms; this method makes the trace
    large. The public code of PHEW multiplies by |w| once instead of w^2; such scores are not conserved.

    {_Flow.__doc__}
    Source: Gebhart et al. 2021, "A Unified Paths Perspective for Pruning at Initialization", arXiv:2101.10552.
    """

    @staticmethod
    def theta_(parameter: Tensor) -> None:
        parameter.square_()
