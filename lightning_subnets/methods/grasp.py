"""GraSP: keep the weights whose removal would reduce the gradient most."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking.method import PruningData
from lightning_subnets.methods.scoring_loss import PruneByLoss, ScoringLoss


class GraSP(PruneByLoss):
    """Gradient signal preservation: the kept weights preserve |g|^2, the squared norm of the gradient.

    score = w * (H g), with gradient g and Hessian H of L, the mean cross-entropy of logits / temperature over all
    scoring images; the highest scores of all layers together are kept.

    To first order, removing w_i changes |g|^2 by -2 * w_i * (H g)_i. The paper writes S = -w * (H g) and removes its
    highest. There is no absolute value. Batch norm and dropout behave as in ``ScoringLoss``.

    The gradient may become a thousand times that of the dense network, above all without norms; then use a smaller
    learning rate. A data module provides the images sorted by class, in two batches, or in more if half of the images
    exceed the batch size, because the statistics of batch norm depend on it; ``mask_`` uses batches as they are.

    Args:
        density: fraction of all weights kept, in (0, 1].
        samples_per_class: training images of each class for the scores, from a data module; ``mask_`` uses all batches
            that it is given.
        temperature: divides the logits, so that all classes are almost equally likely. Above 0.

    Raises:
        ValueError: if an argument is out of range.
    Source: Wang et al. 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow", arXiv:2002.07376,
        section 4, Algorithms 1 and 2.
    """

    by_class = True

    def __init__(self, density: float, *, samples_per_class: int = 10, temperature: float = 200.0) -> None:
        super().__init__(density, samples_per_class=samples_per_class)
        if not temperature > 0.0:
            raise UserError(f"temperature = {temperature} is not above 0: it divides the logits, 200 in the paper")
        self.temperature = temperature

    def scores(self, network: nn.Module, data: PruningData) -> dict[str, Tensor]:
        """Return w * (H g) of each weight by its name."""
        loss = ScoringLoss(network, data, temperature=self.temperature)
        product = loss.hessian_product(loss.gradient())
        return {name: weight.detach() * product[name] for name, weight in loss.weights.items()}
