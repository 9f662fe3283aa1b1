"""``subnets check``: the sanity checks of a run's masks, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean, stdev

import torch
from lightning.pytorch import seed_everything
from rich.console import Console
from rich.table import Table

from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import Batch, EpochLoader
from lightning_subnets.graph import sanity
from lightning_subnets.masking.prune_at_init import progress
from lightning_subnets.run_files.saved_run import SavedRun


def print_checks(checkpoint: str, train_batches: int, images: int, seeds: int) -> None:
    """Print the accuracies of ``sanity.checks``; the arguments are those of ``subnets check``."""
    run = SavedRun(checkpoint)
    module, data = run.module(), run.data()
    data.prepare_data()
    data.setup("fit")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = module.network.to(device)
    seed_everything(module.seed, verbose=False)
    found: dict[str, list[float]] = {}
    total = 1 + 2 * seeds + len(sanity.VALUES)
    checks = sanity.checks(
        network,
        lambda: _batches(data, data.train_dataloader(), train_batches * data.batch_size, device),
        lambda: _batches(data, data.test_dataloader(), images, device),
        range(seeds),
    )
    for _, (what, accuracy) in zip(progress(range(total), "checking"), checks, strict=True):
        found.setdefault(what, []).append(accuracy)
    table = Table("without training", "test accuracy", "deviation")
    for what, accuracies in found.items():
        table.add_row(what, f"{mean(accuracies):.2%}", f"{stdev(accuracies):.2%}" if len(accuracies) > 1 else "")
    Console().print(table)


def _batches(data: ImageDataModule, loader: EpochLoader, images: int, device: torch.device) -> Iterator[Batch]:
    """Yield normalised batches, until there are no more images or this many have been yielded."""
    for batch, labels in loader:
        if images <= 0:
            return
        yield data.normalize(batch[:images].to(device)), labels[:images].to(device)
        images -= len(labels)
