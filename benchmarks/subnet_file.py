"""Measure the size of a .subnet file, and the time to write and read it, beside a dense state dict.

    python benchmarks/subnet_file.py

The masks come from freshly drawn scores, which are independent. So no code needs fewer bits than their entropy, n H(d)
for n weights at density d.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from interleaved import PACKAGES, Values, interleaved, machine, save, table
from rich.console import Console
from torch import nn

import lightning_subnets as ls
from lightning_subnets.subnet_file.container import Container

# Run in a new process, which resets its peak memory after the imports (Linux).
PEAK = """
import sys
import torchvision
import lightning_subnets as ls

def kilobytes(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = kilobytes("VmRSS")
network = ls.load_subnet(sys.argv[1])
print(1024 * (kilobytes("VmHWM") - before))
"""


def entropy(density: float) -> float:
    """Return H(d), in bits per weight."""
    if density in (0.0, 1.0):
        return 0.0
    return -density * math.log2(density) - (1 - density) * math.log2(1 - density)


def milliseconds(action: Callable[[], object]) -> dict[str, float]:
    start, cpu = time.perf_counter(), time.process_time()
    action()
    return {"ms": 1e3 * (time.perf_counter() - start), "processor ms": 1e3 * (time.process_time() - cpu)}


def sizes(file: Path, dense: Path) -> dict[str, float]:
    """Return the bytes of the file, its masks, their entropy, a dense state dict, and the memory to load the file."""
    container = Container(file)
    masks = sum(container.take(f"mask/{name}").numel() for name in container.header.layers)
    bound = sum(layer.size * entropy(layer.kept / layer.size) for layer in container.header.layers.values()) / 8
    peak = subprocess.run([sys.executable, "-c", PEAK, str(file)], check=True, capture_output=True, text=True).stdout
    return {
        "file": file.stat().st_size,
        "masks": masks,
        "entropy of the masks": bound,
        "dense": dense.stat().st_size,
        "memory to load": int(peak),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50", "wide_resnet50_2"])
    parser.add_argument("--densities", nargs="+", type=float, default=[0.3])
    parser.add_argument("--weights", default="signed_constant")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    console, results = Console(width=200), dict[str, dict[str, Values]]()
    console.print(machine())
    for name in options.networks:
        for density in options.densities:
            network: nn.Module = torchvision.models.get_model(name)
            ls.mask_(network, ls.EdgePopup(density), weights=options.weights)
            title = f"{name}, density {density}"
            with tempfile.TemporaryDirectory() as folder:
                file, dense = Path(folder, "net.subnet"), Path(folder, "net.pt")
                plain = torchvision.models.get_model(name)
                runs: dict[str, Callable[[], object]] = {
                    "dense, save": partial(torch.save, plain.state_dict(), dense),
                    "dense, load": lambda: plain.load_state_dict(torch.load(dense, weights_only=True)),  # noqa: B023
                    "save": partial(ls.save_subnet, network, file, force=True),
                    "load": partial(ls.load_subnet, file),
                    "load, masked": partial(ls.load_subnet, file, masked=True),
                }
                found = interleaved({what: partial(milliseconds, run) for what, run in runs.items()}, options.rounds)
                console.print(table(title, found, ["ms", "processor ms"], reference="save", of="ms"))
                bytes_ = sizes(file, dense)
            console.print("bytes:")
            for what, value in bytes_.items():
                console.print(
                    f"{what:>22}  {value / 1e6:10.3f} MB  {value / bytes_['entropy of the masks']:8.4f} of the entropy"
                )
            results[title] = found | {"bytes": {what: [value] for what, value in bytes_.items()}}
    save(results, console, PACKAGES)


if __name__ == "__main__":
    main()
