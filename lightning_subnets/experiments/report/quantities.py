"""The names and units of what is drawn and tabulated, and how its values are written."""

from __future__ import annotations

from typing import NamedTuple

from lightning_subnets.experiments.sweep.figure import Value
from lightning_subnets.training.csv_text import Cell


class Quantity(NamedTuple):
    """An axis of a sweep, or a number that was measured."""

    label: str  # with its unit
    scale: float = 1  # from the unit of the results to the unit of the label


_KNOWN = {
    "classes": Quantity("number of classes"),
    "data": Quantity("data set"),
    "density": Quantity("weights kept (%)", 100),
    "distribution": Quantity("weight distribution"),
    "file_bytes": Quantity("file size (kB)", 1e-3),
    "kept": Quantity("weights kept (millions)", 1e-6),
    "log10_paths": Quantity("paths from inputs to outputs (log10)"),
    "log10_trace": Quantity("path-kernel trace (log10)"),
    "seconds": Quantity("training time (s)"),
    "test_accuracy": Quantity("test accuracy (%)", 100),
    "test_loss": Quantity("test cross-entropy (nats)"),
    "test_top5": Quantity("test top-5 accuracy (%)", 100),
    "total": Quantity("weights in all (millions)", 1e-6),
    "line": Quantity(""),
    "width": Quantity("width multiplier"),
}


def quantity(name: str) -> Quantity:
    """Return the quantity in a column of ``results.csv``; an unknown axis has its own name as its label."""
    return _KNOWN.get(name, Quantity(name.replace("_", " ")))


def rounded(value: Cell) -> str:
    """Write a number with four digits, or in full if it is an integer or at least 1,000; other values as they are."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def written(axis: str, value: Value) -> str:
    """Write a value next to the name of its axis: ``Conv4``, ``10 %``, ``0.5``."""
    if isinstance(value, str):
        return value
    if axis == "density":
        return f"{100 * value:g} %"
    return str(value) if isinstance(value, int) else f"{value:g}"


def with_axis(axis: str, value: Value) -> str:
    """Write a value together with the name of its axis: ``Conv4``, ``10 % kept``, ``width 0.5``."""
    text = written(axis, value)
    if isinstance(value, str):
        return text
    return f"{text} kept" if axis == "density" else f"{axis.replace('_', ' ')} {text}"
