"""Compare most methods on a small real task: Conv2 on handwritten digits, at several densities, over seeds.

    python benchmarks/methods.py --seeds 3 --epochs 30

Each method and density has a row: the test accuracy of the last epoch, with mean and standard deviation over the seeds,
the share of weights kept, and the seconds of a run. Masks over random weights use signed constant weights and SGD with
learning rate 0.1 (Supermask 100). Biprop uses Kaiming normal weights, because on signed constants it equals EdgePopup.
Methods that train weights use Kaiming normal weights and SGD with learning rate 0.05. All use momentum 0.9, weight
decay 1e-4 and a cosine schedule.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from statistics import mean, stdev

import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.networks import Conv2
from lightning_subnets.training.callbacks import IterativePruning
from lightning_subnets.training.module import SubnetModule

LEARNED: dict[str, Callable[[float], ls.Method]] = {
    "EdgePopup": lambda d: ls.EdgePopup(d),
    "EdgePopup, global": lambda d: ls.EdgePopup(d, allocation="global"),
    "EdgePopup, without abs": lambda d: ls.EdgePopup(d, absolute=False),
    "IteRand": lambda d: ls.IteRand(d, every=25),
    "Biprop": lambda d: ls.Biprop(d),
    "Supermask": lambda d: ls.Supermask(d),
}
TRAINED: dict[str, Callable[[float], ls.Method]] = {
    "DNW": lambda d: ls.DNW(d),
    "SNIP": lambda d: ls.SNIP(d),
    "GraSP": lambda d: ls.GraSP(d),
    "SynFlow": lambda d: ls.SynFlow(d),
    "SynFlowL2": lambda d: ls.SynFlowL2(d),
    "PHEW": lambda d: ls.PHEW(d),
    "Random": lambda d: ls.Random(d),
    "Random, ERK": lambda d: ls.Random(d, allocation="erk"),
    "Magnitude": lambda d: ls.Magnitude(d),
}
ROUNDS = {0.5: (2, 1 - 0.5**0.5), 0.1: (5, 1 - 0.1**0.2), 0.02: (8, 1 - 0.02**0.125)}  # rounds, fraction of each


def accuracy(
    method: ls.Method, seed: int, epochs: int, callbacks: list[Callback], learned: bool
) -> tuple[float, float]:
    """Return the test accuracy after the last epoch, and the density."""
    torch.manual_seed(seed)
    rate = 100.0 if isinstance(method, ls.Supermask) else 0.1 if learned else 0.05
    module = SubnetModule(
        Conv2(in_channels=1, image_size=8),
        method,
        weights="signed_constant" if learned and not isinstance(method, ls.Biprop) else "kaiming_normal",
        seed=seed,
        optimizer=lambda trained: torch.optim.SGD(trained, lr=rate, momentum=0.9, weight_decay=1e-4),
        allow_collapse=True,
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=callbacks,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = Digits(seed=seed)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return float(trainer.callback_metrics["test/accuracy"]), ls.density(module.network)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--densities", type=float, nargs="+", choices=ROUNDS, default=list(ROUNDS))
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    table = Table("method", "density", "test accuracy", "kept", "seconds a run")
    jobs = [(name, make, d) for name, make in (LEARNED | TRAINED).items() for d in options.densities]
    for name, make, d in track(jobs, "runs", console=Console(stderr=True)):
        begin = time.perf_counter()
        found = [accuracy(make(d), seed, options.epochs, [], name in LEARNED) for seed in range(options.seeds)]
        _add(table, name, d, found, (time.perf_counter() - begin) / options.seeds)
    for title, rewind in (("lottery ticket, rewind to 0", 0), ("iterative pruning", None)):
        for d in options.densities:
            rounds, fraction = ROUNDS[d]
            begin, found = time.perf_counter(), []
            for seed in range(options.seeds):
                pruning = IterativePruning(rounds, options.epochs, fraction=fraction, rewind_to=rewind)
                found.append(accuracy(ls.Magnitude(), seed, (rounds + 1) * options.epochs, [pruning], learned=False))
            _add(table, f"{title}, {rounds} rounds", d, found, (time.perf_counter() - begin) / options.seeds)
    for name, method in (("LinearProbe", ls.LinearProbe()), ("Dense", ls.Dense())):
        begin, found = time.perf_counter(), []
        for seed in range(options.seeds):
            found.append(accuracy(method, seed, options.epochs, [], learned=False))
        _add(table, name, 1.0, found, (time.perf_counter() - begin) / options.seeds)
    Console(width=200).print(table)


def _add(table: Table, name: str, d: float, found: list[tuple[float, float]], seconds: float) -> None:
    accuracies, kept = zip(*found, strict=True)
    spread = f" ± {100 * stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    table.add_row(name, f"{d:g}", f"{100 * mean(accuracies):.2f}{spread}", f"{mean(kept):.4f}", f"{seconds:.1f}")
    print(f"{name} | {d:g} | {100 * mean(accuracies):.2f}{spread} | {mean(kept):.4f} | {seconds:.1f}", flush=True)


if __name__ == "__main__":
    main()
