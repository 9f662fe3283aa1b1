"""SynFlow and SynFlow-L2: keep the weights that carry most of the flow from input to output, without data."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.graph.logits import logits_of
from lightning_subnets.masking import allocation, selection
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit, weights_to_mask
from lightning_subnets.progress_bar import progress


class _Flow(PruneAtInit):
    """Score weights by the flow through them, and prune in rounds, as SynFlow and SynFlow-L2 do.

    theta >= 0 replaces the parameters; R is the sum of the outputs for an image of ones; score = theta * dR/dtheta, the
    part of R that flows through a weight. Round i of n keeps the density^(i/n) of all weights with the highest scores
    over all layers, and pruned weights stay pruned.

    With ReLU, pooling and batch norm the scores of a unit's incoming weights, plus what its bias adds, sum to those of
    its outgoing weights. So enough rounds empty no layer of a chain while another has more than one weight; a layer
    beside a shortcut may be emptied. With other activations or norms scores are |theta * dR/dtheta| without this law.

    The computation is in float64, because R exceeds float32, and takes 6 s of a CPU core per round for ResNet-50 at 224
    px. Batch norm uses its initial statistics. Weights without a flow are kept last, in the order of the layers.

    Args:
        density: fraction of all weights kept, in (0, 1].
        rounds: number of pruning rounds.

    Raises:
        ValueError: if an argument is out of range.
    """

    requires = "input_shape"

    def __init__(self, density: float, *, rounds: int = 100) -> None:
        self.density = allocation.check_density(density)
        if rounds < 1:
            raise UserError(f"rounds = {rounds} is below 1: the paper has 100, and a single round empties layers")
        self.rounds = rounds

    @staticmethod
    @abstractmethod
    def theta_(parameter: Tensor) -> None:
        """Replace a parameter with its theta, in place."""

    def compute_masks(self, network: nn.Module, data: PruningData) -> dict[str, Tensor]:
        assert data.input_shape is not None
        flow = self.positive(network)
        weights = weights_to_mask(flow, data)
        total = sum(weight.numel() for weight in weights.values())
        masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        for step in progress(range(1, self.rounds + 1), type(self).__name__):
            # Rank remaining weights only: a pruned weight must not replace a remaining one whose flow is 0.
            left = {name: scores[masks[name]] for name, scores in self.scores(flow, weights, data.input_shape).items()}
            kept = selection.top_k_together(left, allocation.num_kept(total, self.density ** (step / self.rounds)))
            for name, weight in weights.items():
                masks[name] = masks[name].masked_scatter(masks[name], kept[name])
                weight.detach().mul_(masks[name])
        return masks

    def positive(self, network: nn.Module) -> nn.Module:
        """Return a copy that computes with theta, in float64 and evaluation mode."""
        flow = copy.deepcopy(network).double().eval().requires_grad_(False)
        for module in flow.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.reset_running_stats()
        for parameter in flow.parameters():
            self.theta_(parameter)
        return flow

    def scores(
        self, flow: nn.Module, weights: Mapping[str, nn.Parameter], input_shape: tuple[int, ...]
    ) -> dict[str, Tensor]:
        """Return theta * dR/dtheta of each weight by its name, for a network from ``positive``."""
        for weight in weights.values():
            weight.requires_grad_()
        with torch.enable_grad():
            ones = torch.ones(1, *input_shape, dtype=torch.float64, device=next(iter(weights.values())).device)
            try:
                total = logits_of(flow, flow(ones)).sum()
            except (RuntimeError, ValueError, IndexError) as error:
                raise UserError(
                    f"{type(flow).__name__} cannot take an image of shape {input_shape}: {error}"
                ) from error
            gradients = torch.autograd.grad(total, list(weights.values()), materialize_grads=True)
        scores = {}
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            scores[name] = gradient.mul_(weight.detach()).abs_()  # in place, because these passes dominate the time
            if not scores[name].max().isfinite():  # the maximum is NaN if a score is
                raise UserError(
                    f"{type(self).__name__} cannot score {name!r} of {type(flow).__name__}: the flow through "
                    "its weights exceeds 1e308, or a weight is NaN. Use SynFlowL2 for more than 200 layers, or smaller "
                    "weights"
                )
        return scores


class SynFlow(_Flow):  # noqa: D101
    __doc__ = f"""Iterative synaptic flow pruning with absolute values of the parameters, theta = |w|.

    R = sum over paths of the product of their |w|; score = |w * dR/d|w||.

    {_Flow.__doc__}
    Source: Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow",
        arXiv:2006.05467, section 6, Algorithm 1; Theorems 1 to 3.
    """

    @staticmethod
    def theta_(parameter: Tensor) -> None:
        parameter.abs_()


class SynFlowL2(_Flow):  # noqa: D101
    __doc__ = f"""SynFlow with squares of the parameters, theta = w^2.

    R2 = sum over paths of the product of their w^2; score = w^2 * dR2/d(w^2). The sum of dR2/d(w^2) over the kept
    weights is the trace of the path kernel before training, up to biases and the eps of norms, and this method makes it
    large.

    {_Flow.__doc__}
    Source: Gebhart et al. 2021, "A Unified Paths Perspective for Pruning at Initialization", arXiv:2101.10552.
    """

    @staticmethod
    def theta_(parameter: Tensor) -> None:
        parameter.square_()
