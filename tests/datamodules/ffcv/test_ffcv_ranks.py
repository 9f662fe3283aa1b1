"""Two processes train and test one network on one ``.beton`` file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from apart import started
from lightning.pytorch import Trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.datamodules import ImageNet
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.preparation import prepare
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.training.module import SubnetModule

pytestmark = pytest.mark.skipif(not installed(), reason="FFCV is not installed: data/install_ffcv.sh")


class Witness(SubnetModule):
    """Records a digest of each image. It has no batch norm, because each rank has its own statistics."""

    def __init__(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        network.append(nn.Linear(32, 3))
        super().__init__(network, ls.EdgePopup(0.5), optimizer=lambda scores: torch.optim.SGD(scores, lr=0.1))
        self.trained: list[str] = []
        self.tested: list[str] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.trained += digests(batch)
        return super().training_step(batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.tested += digests(batch)
        super().test_step(batch, batch_idx)


def digests(batch: Batch) -> list[str]:
    return [hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() for image in batch[0]]


def train_and_test(root: Path, rank: int, port: int) -> None:
    """Train and test as one rank, and write the digests that it saw and those of all images to a file."""
    warnings.simplefilter("ignore")
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.manual_seed(0)
    module = Witness()
    options: dict[str, Any] = {"batch_size": 2, "image_size": 64, "num_workers": 1}
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, enable_model_summary=False, **quiet)
    trainer.fit(module, datamodule=ImageNet(str(root), **options))
    (metrics,) = trainer.test(module, datamodule=ImageNet(str(root), **options), verbose=False)
    alone = ImageNet(str(root), **options)
    alone.setup("test")
    batches = [(alone.normalize(images), labels) for images, labels in alone.test_dataloader()]
    with torch.no_grad():
        right = sum(int((module(images).argmax(1) == labels).sum()) for images, labels in batches)
    seen: dict[str, Any] = {"trained": module.trained, "tested": module.tested, "right": right}
    seen |= {"accuracy": metrics["test/accuracy"], "all": [digest for batch in batches for digest in digests(batch)]}
    (root / f"{trainer.global_rank}.json").write_text(json.dumps(seen))


@pytest.mark.thorough
def test_two_ranks_train_on_disjoint_images_and_evaluate_an_odd_number_exactly(
    photographs: Path, tmp_path: Path
) -> None:
    shutil.copytree(photographs, tmp_path / "odd")
    next((tmp_path / "odd" / "val").glob("*/*")).unlink()
    prepare(tmp_path, tmp_path / "odd", image_size=64, num_workers=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [started(train_and_test, tmp_path, rank, port) for rank in range(2)]
    for process in processes:
        process.join(100)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert [len(first["trained"]), len(second["trained"])] == [20, 20]  # two epochs of 21
    assert len({*first["trained"], *second["trained"]}) == 40
    assert [len(first["tested"]), len(second["tested"])] == [6, 5]
    assert sorted(first["tested"] + second["tested"]) == sorted(first["all"])
    for seen in (first, second):
        assert seen["accuracy"] * 11 == pytest.approx(seen["right"], abs=1e-5)
