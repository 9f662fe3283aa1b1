"""GraSP: keep the weights without which the gradient would flow least."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.masking import allocation
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit
from lightning_subnets.methods.scoring_loss import ScoringLoss, check_samples_per_class


class GraSP(PruneAtInit):
    """Gradient signal preservation: the squared norm of the gradient is what training can win at first; keep it high.

    score = w * (H g), g and H the gradient and Hessian of L with respect to the weights of the layers that are masked,
    L the mean cross-entropy of logits / temperature over all scoring images; the highest scores are kept, over all
    layers together. Then the weights are trained from where they are.

    Which survive: to take w_i away changes |g|^2 by -2 * w_i * (H g)_i to first order. Where the score is positive
    that is a loss of gradient, the larger the score the more: these are kept. Where it is negative the gradient
    grows without the weight: these go first. The paper gives the change itself, S = -w * (H g), and removes its
    highest. There is no absolute value.

    Both sums run over all batches: first g, then H g with that g. Batch norm takes the statistics of each batch, and
    dropout is off: see ``ScoringLoss``. Every weight before a norm that scales by 0 has the score 0, as for SNIP.

    The gradient may come out a thousand times as large as the dense network's, in one without norms above all: the
    learning rate has to be smaller for it.

    The public code sorts its images by class and scores on two halves. With ten classes, one batch has the first five
    classes and the other batch has the rest, and batch norm's statistics depend on that. A data module gives the same
    batches; if a half has more images than the data module's ``batch_size``, it is divided further, in the same order.
    ``mask_`` takes batches as they are.

    The public code draws the weights of fully connected layers again for the scoring, and trains different ones. It
    also keeps all weights whose scores equal the threshold. Here the weights that are scored are trained, and the
    number kept is exact.

    Args:
        density: fraction of all weights kept, in (0, 1].
        samples_per_class: images of each class to score on. Read by whoever provides the batches, a data module for
            instance; all batches that are given count.
        temperature: by which logits are divided, so that the classes are nearly equally likely. Above 0.

    Raises:
        ValueError: if an argument is out of range.
    Source: Wang et al. 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow", arXiv:2002.07376,
        section 4, Algorithms 1 and 2.
    """

    requires = "batches"
    by_class = True

    def __init__(self, density: float, samples_per_class: int = 10, temperature: float = 200.0) -> None:
        self.density = allocation.check_density(density)
        self.samples_per_class = check_samples_per_class(samples_per_class)
        if not temperature > 0.0:
            raise UserError(
                f"temperature = {temperature} is not above 0: logits are divided by it, by 200 in the paper"
            )
        self.temperature = temperature

    def compute_masks(self, network: nn.Module, scoring: PruningData) -> dict[str, Tensor]:
        scores = self.scores(network, scoring.batches)
        total = sum(each.numel() for each in scores.values())
        return allocation.global_(scores, allocation.num_kept(total, self.density))

    def scores(self, network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """w * (H g) of each layer, by its name."""
        loss = ScoringLoss(network, batches, temperature=self.temperature)
        product = loss.hessian_product(loss.gradient())
        return {name: weight.detach() * product[name] for name, weight in loss.weights.items()}
