"""Time a training step of dense and of masked networks.

    python benchmarks/step.py
    python benchmarks/step.py --networks resnet50:256 wide_resnet50_2:256 --compile   # on a GPU

``dense`` trains the weights of the plain network. ``masked`` finds a subnetwork with edge-popup. ``sort`` does the same
with the paper's pseudocode, which sorts the scores of every layer in every forward pass. All use SGD with momentum on
random images, in bfloat16 and channels last on a GPU, and in float32 on a CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from interleaved import Values, interleaved, machine, save, table
from rich.console import Console
from torch import Tensor, nn

from lightning_subnets import Dense, EdgePopup, mask_, masked_weights
from lightning_subnets.masking import MaskedWeight, cached_weight
from lightning_subnets.masking.method import Method, ScoredWeight
from lightning_subnets.networks import Conv4

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
NETWORKS = ["resnet50:256", "wide_resnet50_2:256"] if ON_GPU else ["resnet18:16", "resnet50:16", "conv4:128"]
NETWORKS += ["vit_tiny_patch16_224:16", "nf_regnet_b0:16"]  # attention, and weights that are standardised when read
PHASES = ["forward", "backward", "select", "optimizer"]


class Clock:
    """A clock of the milliseconds between marks, which waits for a GPU only when it is read."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, Any]] = []

    def mark(self, phase: str) -> None:
        """Record that a phase ends here."""
        if ON_GPU:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self.marks.append((phase, event))
        else:
            self.marks.append((phase, time.perf_counter()))

    def read(self) -> dict[str, float]:
        if ON_GPU:
            torch.cuda.synchronize()
        phases: dict[str, float] = {}
        for (_, before), (phase, after) in zip(self.marks, self.marks[1:], strict=False):
            passed = before.elapsed_time(after) if ON_GPU else 1e3 * (after - before)
            phases[phase] = phases.get(phase, 0.0) + passed
        return phases


CLOCK = Clock()


class Timed(EdgePopup):
    """Edge-popup that marks the time of its selection, which is a part of the optimizer's step."""

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        CLOCK.mark("optimizer")
        masks = super().masks(weights)
        CLOCK.mark("select")
        return masks


class Sort(EdgePopup):
    """Edge-popup as in the paper's pseudocode, which sorts in every forward pass."""

    cacheable = False

    def uncached_weight(self, weight: ScoredWeight) -> Tensor:
        assert weight.scores is not None
        mask: Tensor = SortedTopK.apply(weight.scores.abs(), weight.num_kept)
        return weight.weight * mask


class SortedTopK(torch.autograd.Function):
    """The mask of the k largest scores. Source: Ramanujan et al. 2020, Algorithm 1."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int) -> Tensor:
        flat = scores.flatten()
        order = flat.sort().indices
        mask = torch.empty_like(flat)
        mask[order[:-k]] = 0.0
        mask[order[-k:]] = 1.0
        return mask.view(scores.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


METHODS: dict[str, Callable[[], Method]] = {
    "dense": Dense,
    "masked": lambda: Timed(0.3),
    "sort": lambda: Sort(0.3),
}


def build(name: str, variant: str) -> nn.Module:
    """Return a network on the device; the dense one is torchvision's or timm's own."""
    torch.manual_seed(0)
    if name == "conv4":
        network: nn.Module = Conv4()
    else:
        network = (timm.create_model if name in timm.list_models() else torchvision.models.get_model)(name)
    method, _, compiled = variant.partition(", ")
    if method != "dense":
        mask_(network, METHODS[method](), weights="signed_constant", seed=0)
    network.to(DEVICE)
    if ON_GPU:
        network.to(memory_format=torch.channels_last)
    if compiled:
        cached_weight.compile_(network, layers_of(network, variant))
    return network


def layers_of(network: nn.Module, variant: str) -> list[MaskedWeight]:
    return [] if variant.startswith("dense") else list(masked_weights(network).values())


def batch(name: str, size: int) -> tuple[Tensor, Tensor]:
    pixels, classes = (32, 10) if name == "conv4" else (224, 1000)
    images = torch.randn(size, 3, pixels, pixels, device=DEVICE)
    if ON_GPU:
        images = images.to(memory_format=torch.channels_last)
    return images, torch.randint(classes, (size,), device=DEVICE)


class Training:
    """A network in training. A call takes steps and returns their time."""

    def __init__(self, name: str, variant: str, images: Tensor, labels: Tensor, steps: int) -> None:
        self.network, self.images, self.labels, self.steps = build(name, variant).train(), images, labels, steps
        self.layers = layers_of(self.network, variant)
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)

    def __call__(self) -> dict[str, float]:
        """Return the milliseconds of a step by phase, and the images per second."""
        CLOCK.marks.clear()
        if ON_GPU:
            torch.cuda.synchronize()
        start = time.perf_counter()
        CLOCK.mark("start")
        for _ in range(self.steps):
            self.step()
        phases = CLOCK.read()
        seconds = (time.perf_counter() - start) / self.steps
        return {
            **{phase: passed / self.steps for phase, passed in phases.items()},
            "step": 1e3 * seconds,
            "images/s": len(self.images) / seconds,
        }

    def step(self) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=ON_GPU):
            cached_weight.refresh_(self.layers)
            loss = nn.functional.cross_entropy(self.network(self.images), self.labels)
        CLOCK.mark("forward")
        torch.autograd.backward(loss)
        CLOCK.mark("backward")
        self.optimizer.step()
        self.optimizer.zero_grad()
        CLOCK.mark("optimizer")


def peak_memory(name: str, size: int, variant: str) -> float:
    """Return the peak memory in MB of a new process that trains the variant."""
    command = [sys.executable, __file__, f"--networks={name}:{size}", f"--memory-of={variant}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def print_peak_memory(name: str, size: int, variant: str) -> None:
    Training(name, variant, *batch(name, size), steps=3)()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = torch.cuda.max_memory_allocated() if ON_GPU else 1024 * int(status["VmHWM"].split()[0])
    print(peak / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, help="name:batch size, from torchvision, timm or conv4"
    )
    parser.add_argument("--variants", nargs="+", default=["dense", "masked", "sort"])
    parser.add_argument("--compile", action="store_true", help="also compile dense and masked")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10 if ON_GPU else 1, help="steps in a round")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # this program calls itself
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    networks = [(name, int(size)) for name, _, size in (each.partition(":") for each in options.networks)]
    if options.memory_of:
        print_peak_memory(*networks[0], options.memory_of)
        return
    console = Console(width=200)
    console.print(machine())
    variants = options.variants + ["dense, compiled", "masked, compiled"] * options.compile
    results: dict[str, dict[str, Values]] = {}
    for name, size in networks:
        memory = {variant: peak_memory(name, size, variant) for variant in variants}  # before networks are built here
        images, labels = batch(name, size)
        measured = interleaved(
            {variant: Training(name, variant, images, labels, options.steps) for variant in variants}, options.rounds, 2
        )
        for variant in variants:
            measured[variant]["peak MB"] = [memory[variant]]
        title = f"{name}, batch {size}, {DEVICE.type}: ms a step"
        columns = ["step", *PHASES, "images/s", "peak MB"]
        console.print(table(title, measured, columns, reference="dense", of="step"))
        if "dense" in memory:
            ratios = ", ".join(f"{v} {m / memory['dense']:.3f}" for v, m in memory.items())
            console.print(f"peak memory to dense: {ratios}")
        results[f"{name}:{size}"] = measured
    save(results, console)


if __name__ == "__main__":
    main()
