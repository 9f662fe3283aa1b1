"""Measure all variants one after another in every round, so that a busy machine slows all of them alike."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

Values = dict[str, list[float]]
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
PACKAGES = ("torch", "torchvision", "lightning", "numpy")


def interleaved(
    variants: Mapping[str, Callable[[], dict[str, float]]], rounds: int, warmup: int = 1
) -> dict[str, Values]:
    """Return what each variant measures: by variant and quantity, one value for each round after the warm-up.

    Ctrl-C ends the measurement; the rounds that are complete are kept, if there is one.
    """
    complete: list[dict[str, dict[str, float]]] = []
    try:
        for number in track(range(rounds + warmup), "rounds", transient=True):
            values = {name: variant() for name, variant in variants.items()}
            if number >= warmup:
                complete.append(values)
    except KeyboardInterrupt:
        if not complete:
            raise
        print(f"stopped: {len(complete)} of {rounds} rounds are complete; Ctrl-C again ends the program")
    return {
        name: {quantity: [values[name][quantity] for values in complete] for quantity in complete[0][name]}
        for name in variants
    }


def ratio(values: list[float], reference: list[float]) -> float:
    """Return the median over rounds of the ratio within a round."""
    return statistics.median(value / base for value, base in zip(values, reference, strict=True))


def spread(values: list[float], digits: int = 1) -> str:
    """Return the median, and in brackets the quartiles, as text."""
    if len(values) < 3:
        return f"{statistics.median(values):,.{digits}f}"
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:,.{digits}f} ({first:,.{digits}f} to {third:,.{digits}f})"


def table(title: str, measured: Mapping[str, Values], quantities: list[str], reference: str, of: str) -> Table:
    """Return a table with a row for each variant: its quantities, and the ratio of ``of`` to the reference."""
    rows = Table("", *quantities, f"ratio to {reference}", title=title, title_justify="left")
    for name, values in measured.items():
        cells = [spread(values[quantity]) if quantity in values else "" for quantity in quantities]
        base = measured.get(reference, {}).get(of)
        rows.add_row(name, *cells, f"{ratio(values[of], base):.3f}" if base else "")
    return rows


def machine(packages: tuple[str, ...] = PACKAGES) -> str:
    """Describe this machine and the versions of some packages."""
    names = [f"{name} {version(name)}" for name in packages]
    if torch.cuda.is_available():
        names.append(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    cores = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}"
    processor = Path("/proc/cpuinfo")
    flags = processor.read_text().split() if processor.exists() else []
    cores += "".join(f" {each}" for each in INSTRUCTIONS if each in flags)
    return ", ".join([cores, f"Python {platform.python_version()}", *names])


def save(results: object, console: Console, packages: tuple[str, ...] = PACKAGES) -> None:
    """Write results into a new file in runs/benchmarks, with the command and the machine."""
    folder = Path("runs/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    name = Path(sys.argv[0]).stem
    path = next(path for number in range(10**6) if not (path := folder / f"{name}-{number}.json").exists())
    command = ["python", *sys.argv]
    content = {"command": command, "machine": machine(packages), "date": date.today().isoformat(), "results": results}
    path.write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"written to {path}")
