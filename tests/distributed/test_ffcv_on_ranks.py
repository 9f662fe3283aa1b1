"""Two ranks share the images of FFCV's files, each with the crop that one rank would give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from rank_processes import on_ranks, trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.datamodules import ImageNet
from lightning_subnets.training.module import SubnetModule

pytestmark = pytest.mark.thorough


class Watch(Callback):
    """Keeps a number of each image, the sum of its normalised pixels, with its label."""

    def __init__(self) -> None:
        self.trained: list[tuple[float, int]] = []
        self.validated: list[tuple[float, int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.trained += self._of(*batch)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        self.validated += self._of(*batch)

    def _of(self, images: Tensor, labels: Tensor) -> list[tuple[float, int]]:
        sums = images.double().flatten(1).sum(dim=1).tolist()
        return [*zip(sums, labels.tolist(), strict=True)]


def seen(root: Path) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
    """Return the images that this rank trains on in two epochs, and those that it validates."""
    data = ImageNet(str(root), batch_size=4, image_size=64, num_workers=2)
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 3)), ls.EdgePopup(0.5))
    watch = Watch()
    trainer(max_epochs=2, check_val_every_n_epoch=2, num_sanity_val_steps=0, callbacks=[watch]).fit(
        module, datamodule=data
    )
    return watch.trained, watch.validated


def test_two_ranks_share_the_crops_of_one_rank(betons: Path) -> None:
    ((trained, validated),) = on_ranks(seen, betons, ranks=1)
    (first, validated_first), (second, validated_second) = on_ranks(seen, betons)
    assert len(set(trained)) == 2 * 21
    # An epoch of 21 images leaves out its last one, because all ranks take as many steps.
    in_turn = [each for pair in zip(first, second, strict=True) for each in pair]
    assert in_turn == trained[:20] + trained[21:41]
    assert len(set(validated)) == 12
    assert sorted(validated_first + validated_second) == sorted(validated)
