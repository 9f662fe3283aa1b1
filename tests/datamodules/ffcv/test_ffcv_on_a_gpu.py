"""Batches are not overwritten while their copies to a GPU wait."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_subnets.datamodules import ImageNet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_no_batch_changes_while_its_copy_to_a_gpu_waits(betons: Path) -> None:
    data = ImageNet(str(betons), batch_size=2, image_size=64, num_workers=2)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = [images for images, _ in loader]
    assert all(images.is_pinned() for images in batches)
    expected = [images.clone() for images in batches]
    del batches  # their memory is free again
    busy = torch.randn(8192, 8192, device="cuda")
    for _ in range(50):  # about a second of work; the copies queue behind it while the loader continues
        busy = busy @ busy / 8192
    copies = [images.to("cuda", non_blocking=True) for images, _ in loader]
    assert all(torch.equal(copy.cpu(), images) for copy, images in zip(copies, expected, strict=True))
