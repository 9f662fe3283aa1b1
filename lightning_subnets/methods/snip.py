"""SNIP: keep the weights whose removal changes the loss most."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_subnets.masking.method import PruningData
from lightning_subnets.methods.scoring_loss import PruneByLoss, ScoringLoss


class SNIP(PruneByLoss):
    """Connection sensitivity: how fast the loss changes when a connection is switched off.

    score = |dL/dm| at m = 1 = |w * dL/dw|, L the mean cross-entropy over all scoring images; the highest scores of all
    layers together are kept. Norms and dropout behave as in ``ScoringLoss``.

    A weight before a norm with scale 0 has the score 0 and is kept last: with ``weights=None`` build timm's ResNets
    with ``zero_init_last=False``.

    Args:
        density: fraction of all weights kept, in (0, 1].
        samples_per_class: training images of each class for the scores, from a data module; ``mask_`` uses all batches
            that it is given.

    Raises:
        ValueError: if an argument is out of range.
    Source: Lee et al. 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", arXiv:1810.02340,
        section 4, Algorithm 1.
    """

    def scores(self, network: nn.Module, data: PruningData) -> dict[str, Tensor]:
        """Return |w * dL/dw| of each weight by its name."""
        loss = ScoringLoss(network, data)
        gradient = loss.gradient()
        return {name: (weight.detach() * gradient[name]).abs() for name, weight in loss.weights.items()}
