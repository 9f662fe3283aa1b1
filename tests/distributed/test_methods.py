"""Every method finds the same masks on all ranks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rank_processes import on_ranks, trainer
from torch import Tensor, distributed, nn

from lightning_subnets import SNIP, GraSP, masked_weights
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking.digest import fingerprints
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit
from lightning_subnets.training.module import SubnetModule

pytestmark = pytest.mark.thorough

sys.path.append(str(Path(__file__).parents[1] / "methods"))  # of the ranks' processes too


def fingerprints_of_rows() -> dict[str, dict[str, int]]:
    """Return the fingerprints on a rank after two steps on its own images, by row of the table."""
    from table import EVERY

    found, environment = {}, dict(os.environ)
    for row in EVERY:
        os.environ |= environment  # a fit removes the variables that make this process a rank
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
        module = SubnetModule(
            network, row(), weights="kaiming_normal", optimizer=lambda trained: torch.optim.SGD(trained, lr=0.1)
        )
        # 128 images per step over both ranks, so that methods that draw weights again do so.
        trainer(max_steps=2, limit_val_batches=0).fit(module, datamodule=Digits(batch_size=64))
        found[str(row)] = {name: int(value) for name, value in fingerprints(network).items()}
    return found


class OfThisRank(PruneAtInit):
    """Chooses another mask on each rank, as gradients on GPUs may."""

    density = 0.5

    def compute_masks(self, network: nn.Module, scoring: PruningData) -> dict[str, Tensor]:
        return {"1.weight": torch.arange(640).view(10, 64) % 2 == distributed.get_rank()}


def mask_of_rank() -> list[list[bool]]:
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), OfThisRank(), optimizer=torch.optim.SGD)
    trainer(max_steps=1, limit_val_batches=0).fit(module, datamodule=Digits(batch_size=16))
    masks: list[list[bool]] = next(iter(masked_weights(module.network).values())).mask().tolist()
    return masks


def masks_with(convert: Callable[[nn.Module], nn.Module], method: PruneAtInit) -> list[Tensor]:
    distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    data = PruningData([(torch.randn(10, 1, 8, 8), torch.arange(10))], (1, 8, 8))
    return [*method.compute_masks(convert(network), data).values()]


@pytest.mark.parametrize("method", [SNIP(0.5), GraSP(0.5)], ids=repr)
def test_synchronized_norms_are_scored_as_plain_ones(method: PruneAtInit) -> None:
    plain = on_ranks(masks_with, nn.Identity(), method)
    synced = on_ranks(masks_with, nn.SyncBatchNorm.convert_sync_batchnorm, method)
    for one, other in zip(plain, synced, strict=True):
        assert all(map(torch.equal, one, other))


def test_if_ranks_choose_different_masks_all_use_those_of_rank_0() -> None:
    first, second = on_ranks(mask_of_rank)
    assert first == second == [[True, False] * 32] * 10


def test_two_ranks_hold_the_same_masks_after_steps_on_different_images() -> None:
    first, second = on_ranks(fingerprints_of_rows, limit=240.0)
    assert first == second
    assert len(first) == len(set(map(str, first.values())))  # of another method, another network
