"""Time the selection of the 30 % largest scores, by each way to select them.

    python benchmarks/selection.py

The scores are single tensors of 2^16 to 2^28 normal numbers, and all layers of a network at once. ``kthvalue`` compares
with the k-th value, and keeps too many if scores are equal. The other ways are exact.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torchvision
from interleaved import Values, interleaved, machine, save, spread
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_subnets.masking import selection

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Way = Callable[[list[Tensor], list[int]], object]


def by_indices(scores: Tensor, kept: Tensor) -> Tensor:
    return torch.zeros(scores.numel(), dtype=torch.bool, device=DEVICE).scatter_(0, kept, True)


def by_sort(scores: list[Tensor], counts: list[int]) -> object:
    return [
        by_indices(each, each.abs().flatten().sort(descending=True, stable=True).indices[:k])
        for each, k in zip(scores, counts, strict=True)
    ]


def by_topk(scores: list[Tensor], counts: list[int]) -> object:
    return [
        by_indices(each, each.abs().flatten().topk(k, sorted=False).indices)
        for each, k in zip(scores, counts, strict=True)
    ]


def by_kthvalue(scores: list[Tensor], counts: list[int]) -> object:
    masks = []
    for each, k in zip(scores, counts, strict=True):
        flat = each.abs().flatten()
        masks.append(flat >= flat.kthvalue(flat.numel() - k + 1).values)
    return masks


def ours(scores: list[Tensor], counts: list[int]) -> object:
    return selection.top_k_each(scores, counts, absolute=True)


WAYS: dict[str, Way] = {"ours": ours, "torch.sort": by_sort, "torch.topk": by_topk, "torch.kthvalue": by_kthvalue}


def milliseconds(way: Way, scores: list[Tensor]) -> dict[str, float]:
    counts = [round(0.3 * each.numel()) for each in scores]
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    way(scores, counts)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return {"ms": 1e3 * (time.perf_counter() - start)}


def normal(shapes: list[torch.Size]) -> list[Tensor]:
    return [torch.randn(shape, device=DEVICE) for shape in shapes]


def data_sets(exponents: list[int], networks: list[str]) -> dict[str, Callable[[], list[Tensor]]]:
    sets: dict[str, Callable[[], list[Tensor]]] = {
        f"2^{exponent}": partial(normal, [torch.Size([2**exponent])]) for exponent in exponents
    }
    for name in networks:
        with torch.device("meta"):
            shapes = [each.shape for each in torchvision.models.get_model(name).parameters() if each.dim() > 1]
        sets[name] = partial(normal, shapes)
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exponents", type=int, nargs="+", default=list(range(16, 29, 2)))
    parser.add_argument("--networks", nargs="*", default=["resnet18", "resnet50", "wide_resnet50_2"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=5.0, help="seconds; a slower way is not tried on larger tensors")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    console = Console(width=200)
    console.print(machine())
    rows = Table("scores", *(f"{way}, ms" for way in WAYS), "ours, ns a score", "torch.sort / ours")
    results: dict[str, dict[str, Values]] = {}
    slow: set[str] = set()
    for name, draw in data_sets(options.exponents, options.networks).items():
        torch.manual_seed(0)
        scores = draw()
        total, single = sum(each.numel() for each in scores), len(scores) == 1
        ways = {way: partial(milliseconds, WAYS[way], scores) for way in WAYS if not (single and way in slow)}
        measured = results[name] = interleaved(ways, options.rounds if total < 2**26 else 3)
        took = {way: statistics.median(values["ms"]) for way, values in measured.items()}
        if single:
            slow |= {way for way, each in took.items() if each > 1e3 * options.limit}
        cells = [spread(measured[way]["ms"], 2) if way in measured else "" for way in WAYS]
        gain = f"{took['torch.sort'] / took['ours']:.1f}" if "torch.sort" in took else ""
        rows.add_row(f"{name} ({total:,})", *cells, f"{1e6 * took['ours'] / total:.2f}", gain)
    console.print(rows)
    save(results, console)


if __name__ == "__main__":
    main()
