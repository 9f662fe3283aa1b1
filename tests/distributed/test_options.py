"""With each option of the Trainer, two ranks with half of the images each compute what one rank with all of them does.

The network has no batch norm, whose statistics are those of a rank's images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from rank_processes import on_ranks, trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import GradualDensity
from lightning_subnets.training.module import SubnetModule

pytestmark = pytest.mark.thorough

STEPS = 6
State = dict[str, Tensor]


def with_norms(method: ls.Method | None = None, **options: Any) -> SubnetModule:
    network = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten())
    network.append(nn.Linear(72, 10))
    options |= {"weights": "kaiming_normal", "lr_batch_size": 64}
    options["optimizer"] = lambda trained: torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    return SubnetModule(network, method or ls.EdgePopup(0.5), **options)


# Of each: the module, the options of the Trainer, and the number of batches in a step.
OPTIONS: dict[str, tuple[Callable[[], SubnetModule], Callable[[], dict[str, Any]], int]] = {
    "accumulation": (with_norms, lambda: {"accumulate_grad_batches": 3}, 3),
    "clipping": (with_norms, lambda: {"gradient_clip_val": 0.01}, 1),
    "average": (with_norms, lambda: {"callbacks": [EMAWeightAveraging(decay=0.8)]}, 1),
    "gradual density": (with_norms, lambda: {"callbacks": [GradualDensity()]}, 1),
    "gradual density over all layers": (
        lambda: with_norms(ls.EdgePopup(0.5, allocation="global")),
        lambda: {"callbacks": [GradualDensity()]},
        1,
    ),
    "trained norms": (lambda: with_norms(norms="trained"), dict, 1),
    "images for SNIP": (lambda: with_norms(ls.SNIP(0.3)), dict, 1),
    "images for GraSP": (lambda: with_norms(ls.GraSP(0.3)), dict, 1),
}


def train(name: str, batch_size: int) -> tuple[State, State, State]:
    """Return the network before training, and the network and its masks after a few steps in float64."""
    make, options, batches = OPTIONS[name]
    module = make()
    before = {key: value.double() for key, value in module.network.state_dict().items()}
    limits = {"max_steps": STEPS, "max_epochs": -1, "limit_val_batches": 0, "precision": "64-true"}
    trainer(**limits, **options()).fit(module, datamodule=Digits(batch_size // batches))
    return before, module.network.state_dict(), ls.masks(module.network)


@pytest.mark.parametrize("name", OPTIONS)
def test_two_ranks_with_half_of_the_images_each_end_as_one_with_all(name: str) -> None:
    ((before, alone, masks),) = on_ranks(train, name, 96, ranks=1)
    others = on_ranks(train, name, 48)
    assert any(not torch.equal(alone[key], before[key]) for key in alone)
    for _, state, of_rank in others:
        torch.testing.assert_close(state, alone, rtol=1e-10, atol=1e-12)
        assert all(torch.equal(of_rank[key], mask) for key, mask in masks.items())
    assert all(torch.equal(others[0][1][key], value) for key, value in others[1][1].items())
