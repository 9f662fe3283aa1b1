"""The rows of a run's ``metrics.csv``."""

from __future__ import annotations

from pathlib import Path

from lightning_subnets.training.loggers.metrics_file import ParsedMetrics


def rows(run: Path) -> list[tuple[int, dict[str, float]]]:
    """Return each row's step and its metrics by name, or no rows if there is no file."""
    path = run / "metrics.csv"
    parsed = ParsedMetrics(path.read_bytes()).rows if path.exists() else []
    return [(row.step, {name: float(cell) for name, cell in row.cells.items() if name != "step"}) for row in parsed]


def by_step(run: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for step, row in rows(run):
        found.setdefault(step, {}).update(row)
    return found


def column(run: Path, name: str) -> dict[int, float]:
    return {step: row[name] for step, row in rows(run) if name in row}
