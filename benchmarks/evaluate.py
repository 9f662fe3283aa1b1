"""Time an evaluation step of dense and of masked networks.

    python benchmarks/evaluate.py

A masked network computes the same convolutions as a dense one, and compares version counters.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch
from interleaved import Values, interleaved, machine, save, table
from rich.console import Console
from step import DEVICE, NETWORKS, ON_GPU, batch, build, layers_of
from torch import Tensor

from lightning_subnets.masking import cached_weight


class Evaluation:
    """A network in evaluation. A call takes steps and returns their time."""

    def __init__(self, name: str, variant: str, images: Tensor, steps: int) -> None:
        self.network, self.images, self.steps = build(name, variant).eval(), images, steps
        self.layers = layers_of(self.network, variant)

    @torch.inference_mode()
    def __call__(self) -> dict[str, float]:
        self._wait()
        start = time.perf_counter()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=ON_GPU):
            for _ in range(self.steps):
                cached_weight.refresh_(self.layers)
                self.network(self.images)
        self._wait()
        seconds = (time.perf_counter() - start) / self.steps
        return {"step": 1e3 * seconds, "images/s": len(self.images) / seconds}

    def _wait(self) -> None:
        if ON_GPU:
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, help="name:batch size, from torchvision, timm or conv4"
    )
    parser.add_argument("--variants", nargs="+", default=["dense", "masked", "sort"])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--steps", type=int, default=10 if ON_GPU else 1, help="steps in a round")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    console = Console(width=200)
    console.print(machine())
    results: dict[str, dict[str, Values]] = {}
    for name, size in ((name, int(size)) for name, _, size in (each.partition(":") for each in options.networks)):
        images, _ = batch(name, size)
        variants = {variant: Evaluation(name, variant, images, options.steps) for variant in options.variants}
        measured = interleaved(variants, options.rounds, 2)
        title = f"{name}, batch {size}, {DEVICE.type}: ms an evaluation step"
        console.print(table(title, measured, ["step", "images/s"], reference="dense", of="step"))
        results[f"{name}:{size}"] = measured
    save(results, console)


if __name__ == "__main__":
    main()
