"""Try edge-popup on networks of timm and torchvision: which can be masked, trained, saved, loaded and exported?

    python benchmarks/breadth.py
    python benchmarks/breadth.py timm.models.vit_tiny_patch16_224 torchvision.models.swin_t

For each network, with random images: mask it at density 0.3; one step of SGD gives every masked weight a gradient for
its scores; every mask keeps its exact number; a .subnet file loads with equal logits; unmasking leaves the logits
equal; torch.export records the unmasked network. Each network has a process of its own. Results are added to
``results/breadth.csv``. Networks that are in it are not tried again, unless they are named. The largest network of
torchvision takes 15 GB of memory.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.subnet_file.building import build

RESULTS = Path(__file__).parent.parent / "results" / "breadth.csv"
LARGEST = 30_000_000  # parameters of a network of timm
SECONDS = 900  # for one network


def networks(count: int) -> list[str]:
    """Return a random sample of timm, one of each family in turn, and all classification networks of torchvision."""
    chosen = [f"torchvision.models.{name}" for name in torchvision.models.list_models(module=torchvision.models)]
    draw = random.Random(0)
    families = [timm.list_models(module=family) for family in timm.list_modules()]
    for names in families:
        draw.shuffle(names)
    ranked = [names[rank] for rank in range(max(map(len, families))) for names in families if rank < len(names)]
    small = (name for name in ranked if _size(name) <= LARGEST)
    return [f"timm.models.{name}" for name in islice(small, count)] + chosen


def _size(name: str) -> int:
    """Return the number of parameters of a network of timm, without allocating them."""
    with torch.device("meta"):
        return sum(each.numel() for each in timm.create_model(name, num_classes=10).parameters())


def attempt(name: str) -> str:
    """Return "passed", or the check that failed and why."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    arguments: dict[str, Any] = {"num_classes": 10}
    network: nn.Module = build(name, arguments)
    images, labels = _images(network), torch.tensor([1, 7])
    stage = "mask"
    try:
        ls.mask_(network, ls.EdgePopup(0.3))
        stage = "step"
        _step(network.train(), images, labels)
        stage = "count"
        for key, weight in ls.masked_weights(network).items():
            assert int(weight.mask().sum()) == weight.num_kept, f"{key} keeps {int(weight.mask().sum())}"
        stage = "save and load"
        logits = _logits(network.eval(), images)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "net.subnet"
            ls.save_subnet(network, file, network={"class_path": name, "init_args": arguments})
            assert torch.equal(_logits(ls.load_subnet(file), images), logits), "the loaded network has other logits"
        stage = "unmask"
        ls.unmask_(network)
        assert torch.equal(_logits(network, images), logits), "the logits have changed"
        stage = "export"
        program = torch.export.export(network, (images,), strict=False)
        torch.testing.assert_close(_first(program.module()(images)), logits)
    except Exception as error:  # whatever a network's own code raises
        return f"{stage}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "passed"


def _images(network: nn.Module) -> Tensor:
    """Return images of 64 pixels if the network takes them, else of the size that it is made for."""
    settings: Any = getattr(network, "default_cfg", {"input_size": (3, 224, 224)})  # of timm
    for shape in ((3, 64, 64), (3, 96, 96), (3, 128, 128), settings["input_size"], (3, 299, 299)):
        images = torch.randn(2, *shape)
        try:
            network.eval()(images)
            network.train()(images)
        except Exception:  # whatever a network raises
            continue
        break
    return images


def _step(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    scores = [weight.scores for weight in ls.masked_weights(network).values()]
    optimizer = torch.optim.SGD([each for each in scores if each is not None], lr=0.1)
    without: list[str] = []
    for _ in range(10):  # stochastic depth leaves branches out of a pass
        outputs = network(images)
        parts = outputs if isinstance(outputs, tuple) else (outputs,)  # auxiliary classifiers, distillation
        losses = [nn.functional.cross_entropy(part, labels) for part in parts if part is not None]
        torch.autograd.backward(losses)
        without = [
            name
            for name, weight in ls.masked_weights(network).items()
            if weight.scores is None or weight.scores.grad is None or not weight.scores.grad.any()
        ]
        if not without:
            break
    assert not without, f"no gradient for {len(without)} of {len(scores)}: {', '.join(without[:4])}"
    optimizer.step()


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor) -> Tensor:
    # Where a matrix product is taken of slices, torch orders its sums by whether the weight requires a gradient.
    return _first(network.requires_grad_(False)(images))


def _first(outputs: Any) -> Tensor:
    result: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return result


def in_a_process(function: Callable[[str], str], name: str) -> str:
    """Return the function's result, or why its process gave none."""

    def run(end: Connection) -> None:
        end.send(function(name))

    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(sending,), daemon=True)
    process.start()
    sending.close()
    try:
        return str(receiving.recv()) if receiving.poll(SECONDS) else f"not tried: takes more than {SECONDS} s"
    except EOFError:
        process.join()
        return f"not tried: the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="names of builders; by default a sample of all families")
    parser.add_argument("--count", type=int, default=200, help="networks of timm in the sample")
    options = parser.parse_args()
    rows: dict[str, list[str]] = {}
    if RESULTS.is_file():
        rows = {row[0]: row for row in list(csv.reader(RESULTS.open()))[1:]}
    console = Console(width=200)
    for name in track(options.networks or networks(options.count), console=console, transient=True):
        if name in rows and not options.networks:
            continue
        start = time.perf_counter()
        rows[name] = [name, in_a_process(attempt, name), f"{time.perf_counter() - start:.0f}"]
        console.print(name, rows[name][1], markup=False, highlight=False)
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("w", newline="") as file:
            csv.writer(file).writerows([["network", "result", "seconds"], *sorted(rows.values())])
    for package in ("torchvision", "timm"):
        results = Counter(row[1].partition(":")[0] for row in rows.values() if row[0].startswith(package))
        console.print(f"{package}: " + ", ".join(f"{count} {what}" for what, count in results.most_common()))
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    console.print(versions, highlight=False)


if __name__ == "__main__":
    main()
