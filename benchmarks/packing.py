"""Measure how many small runs one device completes in an hour, one after another and several at once.

    python benchmarks/packing.py --at-once 1 2 4 8

Edge-popup finds a subnetwork of Conv4 on random images of CIFAR's size. ``processes at once`` starts several processes
that share the device and the processors, each with a Trainer, as a sweep does. It measures the second of two epochs, of
all processes together. ``runs/h`` converts the result to runs of 100 epochs of 50,000 images.

``seeds in one`` computes the forward and backward pass of several seeds with torch.func.vmap in one process, and of one
seed without vmap. It measures the images per second of all seeds together. Data, masks and optimizer are left out, so
the result is an upper bound.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import time
import warnings
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from cifar import InMemory, images_per_second
from interleaved import interleaved, machine, save, table
from rich.console import Console
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from lightning_subnets.networks import Conv4

IMAGES_OF_A_RUN = 100 * 50_000


def _worker(ready: Barrier, samples: int, batch_size: int, threads: int, results: Any) -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    images_per_second(InMemory(2 * batch_size, batch_size))  # warms up
    ready.wait()
    results.put(images_per_second(InMemory(samples, batch_size))["images/s"])


def processes(at_once: int, samples: int, batch_size: int) -> dict[str, float]:
    """Return the images per second of all processes together."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(at_once), context.Queue()
    threads = max(1, len(os.sched_getaffinity(0)) // at_once)
    workers = [
        context.Process(target=_worker, args=(ready, samples, batch_size, threads, results)) for _ in range(at_once)
    ]
    for worker in workers:
        worker.start()
    speed = sum(results.get() for _ in workers)
    for worker in workers:
        worker.join()
    return {"images/s": speed, "runs/h": 3600 * speed / IMAGES_OF_A_RUN}


def seeds_in_one(seeds: int, batch_size: int, steps: int = 3) -> dict[str, float]:
    """Return the images per second of all seeds together; only forward and backward passes are timed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = [Conv4().to(device) for _ in range(seeds)]
    images = torch.randn(seeds, batch_size, 3, 32, 32, device=device)
    labels = torch.randint(10, (seeds, batch_size), device=device)

    def loss(parameters: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(networks[0], parameters, (images,)), labels)

    stacked, _ = stack_module_state(networks)
    parameters = {name: each.detach() for name, each in stacked.items()}  # or autograd would record the step once more
    many = vmap(grad(loss))

    def step() -> None:
        if seeds > 1:
            many(parameters, images, labels)
        else:
            functional.cross_entropy(networks[0](images[0]), labels[0]).backward()  # type: ignore[no-untyped-call]

    step()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return {"images/s": seeds * batch_size * steps / (time.perf_counter() - start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=200)
    console.print(machine())
    for title, ways, quantities in (
        (
            "processes at once",
            {str(n): partial(processes, n, options.samples, options.batch_size) for n in options.at_once},
            ["images/s", "runs/h"],
        ),
        (
            "seeds in one",
            {str(n): partial(seeds_in_one, n, options.batch_size) for n in options.seeds},
            ["images/s"],
        ),
    ):
        measured = interleaved(ways, options.rounds, 0)
        title = f"Conv4, batch {options.batch_size}: {title}"
        console.print(table(title, measured, quantities, reference=next(iter(ways)), of="images/s"))
        save({title: measured}, console)


if __name__ == "__main__":
    main()
