"""Networks that the tests of masking share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_subnets import EdgePopup, mask_

IMAGES = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])


def small_network() -> nn.Sequential:
    """A network for ``IMAGES`` whose layers 0, 3 and 6 can be masked."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 5),
    )


def masked_network(seed: int = 0) -> nn.Module:
    return mask_(small_network(), EdgePopup(0.4), seed=seed)


def loss_of(network: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(network(IMAGES), LABELS)


def scores_of(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: scores for name, scores in network.named_parameters() if name.endswith("scores")}


@torch.no_grad()
def randomize_(network: nn.Module) -> nn.Module:
    """Change every number of a network, as training might, so that no number is what ``mask_`` resets it to."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return network
