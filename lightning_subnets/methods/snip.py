"""SNIP: keep the weights that the loss feels most when they are taken away."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_subnets.masking import allocation
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit
from lightning_subnets.methods.scoring_loss import ScoringLoss, check_samples_per_class


class SNIP(PruneAtInit):
    """Connection sensitivity: how fast the loss changes as a connection is switched off.

    score = |dL/dm| at m = 1 = |w * dL/dw|, L the mean cross-entropy over all scoring images; the highest
    scores are kept, over all layers together. Then the weights are trained from where they are.

    The gradient is summed over batches before the absolute value is taken. Batch norm takes the statistics of each
    batch, and dropout is off: see ``ScoringLoss``. If ``weights=None`` leaves a network as it was built, every weight
    before a norm that scales by 0 has the score 0 and is kept last. Timm builds ResNets with such norms unless
    ``zero_init_last=False``.

    The authors' first code (TensorFlow) ranks with batch norm in inference mode, on its first moving statistics, and
    ranks biases too. Later codes and this class rank with the statistics of the batch, and rank only weights. The
    choice matters: for ResNet-20 at density 0.1 the masks of the two choices share 0.15 of their weights, and the masks
    from two draws of images share 0.51.

    The public code divides the scores by their sum, which changes no order, draws the weights from its own
    distribution, and keeps all of several equal scores at the threshold. Here the weights are those that are trained
    later, and the count is exact.

    Args:
        density: fraction of all weights kept, in (0, 1].
        samples_per_class: images of each class to score on. Read by whoever provides the batches, a data module for
            instance; all batches that are given count.

    Raises:
        ValueError: if an argument is out of range.
    Source: Lee et al. 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", arXiv:1810.02340,
        section 4, Algorithm 1.
    """

    requires = "batches"

    def __init__(self, density: float, samples_per_class: int = 10) -> None:
        self.density = allocation.check_density(density)
        self.samples_per_class = check_samples_per_class(samples_per_class)

    def compute_masks(self, network: nn.Module, scoring: PruningData) -> dict[str, Tensor]:
        scores = self.scores(network, scoring.batches)
        total = sum(each.numel() for each in scores.values())
        return allocation.global_(scores, allocation.num_kept(total, self.density))

    def scores(self, network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """|w * dL/dw| of each layer, by its name."""
        loss = ScoringLoss(network, batches)
        gradient = loss.gradient()
        return {name: (weight.detach() * gradient[name]).abs() for name, weight in loss.weights.items()}
