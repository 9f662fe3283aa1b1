"""Train a small network on images of CIFAR's size, with data in the device's memory and from a DataLoader.

    python benchmarks/cifar.py

Edge-popup finds a subnetwork of Conv4. ``in memory`` loads as ``CIFAR10`` does: the data set is in the device's memory,
and is cropped and mirrored there. ``DataLoader`` loads as torchvision's CIFAR-10 does: each image is a PIL image, which
worker processes transform. The pixels are random.
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from interleaved import interleaved, machine, save, table
from lightning.pytorch import LightningDataModule, Trainer
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lightning_subnets import EdgePopup
from lightning_subnets.datamodules.in_memory import InMemoryDataModule
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.networks import Conv4
from lightning_subnets.training.callbacks import Throughput
from lightning_subnets.training.module import SubnetModule

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


class InMemory(InMemoryDataModule):
    """``CIFAR10`` with random pixels."""

    mean, std = MEAN, STD
    image_shape = (3, 32, 32)
    padding = 4

    def __init__(self, samples: int, batch_size: int) -> None:
        super().__init__(batch_size, validation_fraction=0.0, seed=0)
        self.samples = samples

    @property
    def classes(self) -> list[str]:
        return [str(label) for label in range(10)]

    def load(self, *, train: bool) -> Batch:
        samples = self.samples if train else 1
        return torch.randint(256, (samples, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (samples,))


class Pictures(Dataset[tuple[Tensor, int]]):
    """torchvision's CIFAR10 with random pixels."""

    def __init__(self, samples: int) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (samples, 32, 32, 3), dtype=np.uint8)
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), index % 10


class FromDataLoader(LightningDataModule):
    def __init__(self, samples: int, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.samples, self.batch_size, self.num_workers = samples, batch_size, num_workers

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            Pictures(self.samples),
            self.batch_size,
            shuffle=True,
            num_workers=self.num_workers,
            persistent_workers=True,
            pin_memory=torch.cuda.is_available(),
        )


def images_per_second(data: LightningDataModule) -> dict[str, float]:
    """Measure the second of two epochs; the first one starts workers and warms up."""
    module = SubnetModule(Conv4(), EdgePopup(0.5), optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True))
    trainer = Trainer(
        max_epochs=2,
        callbacks=[Throughput()],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return {"images/s": float(trainer.callback_metrics["train/images_per_second"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    console = Console(width=200)
    console.print(machine())
    data = {
        "in memory": InMemory(options.samples, options.batch_size),
        "DataLoader": FromDataLoader(options.samples, options.batch_size, options.workers),
    }
    ways = {name: partial(images_per_second, each) for name, each in data.items()}
    measured = interleaved(ways, options.rounds, 0)
    title = f"Conv4, {options.samples} images, batch {options.batch_size}, {options.workers} workers"
    console.print(table(title, measured, ["images/s"], reference="DataLoader", of="images/s"))
    save({title: measured}, console)


if __name__ == "__main__":
    main()
