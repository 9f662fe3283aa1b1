"""Add a method of your own: one class in one file, for Python and for configs.

    python examples/own_method.py
    PYTHONPATH=examples lightning fit -c configs/quickstart.yaml \
        --model.method=own_method.LAMP --model.method.density=0.1 --model.weights=kaiming_normal

A subclass of ``PruneAtInit`` computes masks before training; the weights are then trained under them. A method that
trains scores is a subclass of ``Method`` instead.
"""

import torch
from torch import Tensor, nn

import lightning_subnets as ls


class LAMP(ls.PruneAtInit):
    """Layer-adaptive magnitude pruning: compare each weight with the larger weights of its layer.

    score = w^2 / sum of v^2 over the layer's weights with |v| >= |w|; the highest scores of all layers are kept.

    Args:
        density: fraction of all weights kept, in (0, 1].

    Source: Lee et al. 2021, "Layer-Adaptive Sparsity for the Magnitude-Based Pruning", Eq. 1.
    """

    def __init__(self, density: float) -> None:
        self.density = density

    def compute_masks(self, network: nn.Module, data: ls.PruningData) -> dict[str, Tensor]:
        scores = {name: self.scores(weight.detach()) for name, weight in ls.weights_to_mask(network, data).items()}
        together = torch.cat([each.flatten() for each in scores.values()])
        threshold = together.topk(max(1, round(self.density * len(together)))).values[-1]
        return {name: each >= threshold for name, each in scores.items()}

    def scores(self, weight: Tensor) -> Tensor:
        squares, order = weight.flatten().square().sort(descending=True)
        shares = (squares / squares.cumsum(0)).nan_to_num()  # of a layer of zeros, 0 / 0
        return torch.empty_like(squares).scatter_(0, order, shares).view_as(weight)


if __name__ == "__main__":
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    ls.mask_(network, LAMP(density=0.1), weights="kaiming_normal", seed=0)
    for name, density in ls.density(network, per_weight=True).items():
        print(f"{name} keeps {density:.1%}")
