"""What is said of a sweep beside its pictures and its table: what is missing, and where the numbers come from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from lightning_subnets.experiments.report import points
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.experiments.sweep.results import Row

PACKAGES = ("lightning_subnets", "torch", "torchvision", "lightning")


def incomplete(sweep: Sweep, rows: Sequence[Row]) -> str:
    """What is missing or has failed; nothing where all runs are finished."""
    return points.not_there(rows, points.axes_of(sweep, rows))


def failures(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    """Each failed run and its error."""
    axes = points.axes_of(sweep, rows)
    return [f"{points.run_in_words(row, axes)}: {row['error']}" for row in rows if row["status"] == "failed"]


def provenance(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Of the finished runs: how many, on what, by which versions, when, and how long they took in all."""
    finished = [row for row in rows if row["status"] == "finished"]
    dates = sorted(str(row["finished"])[:10] for row in finished if row["finished"])
    versions = (f"{package} {version}" for package in PACKAGES for version in _different(finished, package))
    return [
        ("runs", f"{len(finished)} of {len(rows)}"),
        ("device", "; ".join(_different(finished, "device"))),
        ("versions", ", ".join(versions)),
        ("finished", " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else ""),
        ("run time", duration(sum(points.numbers(finished, "seconds"))) + ", the runs one after another"),
    ]


def commands(sweep: Sweep, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Each run: which it is, its status, and the command that makes it."""
    axes = points.axes_of(sweep, rows)
    return [(points.run_in_words(row, axes), str(row["status"]), str(row["command"])) for row in rows]


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _different(rows: Sequence[Row], column: str) -> list[str]:
    return list(dict.fromkeys(str(row[column]) for row in rows if row[column]))
