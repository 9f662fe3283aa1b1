"""Train a subnetwork of a large network for a few epochs on images that are held in memory.

    python benchmarks/training.py

The images are the digits of scikit-learn in three channels, enlarged, so that every machine has them. Edge-popup keeps
30 % of Wide ResNet-50-2's signed constants, by the fast recipe, in bfloat16 and channels last.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from functools import partial

import torch
import torchvision
from interleaved import interleaved, machine, save, table
from lightning.pytorch import Trainer, seed_everything
from rich.console import Console

from lightning_subnets import EdgePopup
from lightning_subnets.datamodules import Digits
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.masking.digest import weights_digest
from lightning_subnets.training.callbacks import Throughput
from lightning_subnets.training.module import SubnetModule

ON_GPU = torch.cuda.is_available()


class ColouredDigits(Digits):
    """``Digits`` with three equal channels."""

    mean, std = 3 * Digits.mean, 3 * Digits.std

    def __init__(self, batch_size: int, image_size: int) -> None:
        super().__init__(batch_size, image_size=image_size)
        self.image_shape = (3, image_size, image_size)

    def load(self, *, train: bool) -> Batch:
        images, labels = super().load(train=train)
        return images.expand(-1, 3, -1, -1).contiguous(), labels


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train and test, and return accuracy in per cent, images a second in the last epoch, and memory."""
    seed_everything(0, verbose=False)
    network = torchvision.models.get_model(options.network, num_classes=10)
    module = SubnetModule(
        network,
        EdgePopup(0.3),
        weights="scaled_signed_constant",
        optimizer=partial(torch.optim.Adam, lr=3e-3, fused=True),
        channels_last=True,
    )
    before = weights_digest(module.network, frozen=True)
    trainer = Trainer(
        max_epochs=options.epochs,
        callbacks=[Throughput()],
        precision="bf16-mixed",
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = ColouredDigits(options.batch_size, options.size)
    trainer.fit(module, datamodule=data)
    speed = float(trainer.callback_metrics["train/images_per_second"])
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    if weights_digest(module.network, frozen=True) != before:
        sys.exit("the frozen weights have changed in training")
    memory = torch.cuda.max_memory_allocated() / 1e6 if ON_GPU else 0.0
    return {"accuracy, %": 100 * tested["test/accuracy"], "images/s": speed, "peak GPU MB": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="wide_resnet50_2", help="of torchvision")
    parser.add_argument("--size", type=int, default=96, help="of the images, in pixels")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    console = Console(width=200)
    console.print(machine())
    title = f"{options.network}, {options.epochs} epochs of digits at {options.size} pixels, batch {options.batch_size}"
    measured = interleaved({"masked": partial(train, options)}, rounds=1, warmup=0)
    console.print(table(title, measured, list(measured["masked"]), reference="masked", of="images/s"))
    save({title: measured}, console)


if __name__ == "__main__":
    main()
