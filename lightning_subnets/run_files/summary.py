"""The summary of a finished run: ``summary.json`` for programs, and a table for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from pydantic import Field

from lightning_subnets import atomic_file, masking
from lightning_subnets._version import versions
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.errors import UserError, printable
from lightning_subnets.graph.diagnostics import Diagnosis, log10_path_kernel_trace
from lightning_subnets.masking import digest
from lightning_subnets.run_files import drawing
from lightning_subnets.training.callbacks.collapse import diagnosis_of
from lightning_subnets.training.callbacks.rank_consistency import device_name
from lightning_subnets.training.module import SubnetModule
from lightning_subnets.training.schema import Count, Strict, first_mistake


class Summary(Strict):
    """The values that are read from a summary. Summaries of older versions may lack some."""

    network: str | None = None
    method: str | None = None
    weights: str | None = None
    seed: Count | None = None
    test_accuracy: float | None = None
    test_top5: float | None = None
    test_loss: float | None = None
    kept: Count | None = None
    total: Count | None = None
    density: float | None = None
    best_val_accuracy: float | None = None
    best_epoch: Count | None = None
    log10_paths: float | None = None
    log10_trace: float | None = None
    units_on_paths: dict[str, Count] | None = None
    file_bytes: Count | None = None
    weights_digest: str | None = None
    seconds: float | None = None
    epochs: Count | None = None
    steps: Count | None = None
    device: str | None = None
    data: str | None = None
    validated_on: str | None = None
    finished: str | None = None
    versions: dict[str, str] = Field(default={})


def weights_digest(module: SubnetModule) -> str:
    """Return the digest of the frozen weights, or of all if the method trains them."""
    return digest.weights_digest(module.network, frozen=module.method.trainable == "scores")


def summarize(
    module: SubnetModule, data: LightningDataModule, *, digest_before: str, seconds: float
) -> tuple[dict[str, Any], Diagnosis | None]:
    """Return the summary of a run that has been trained and tested, and the diagnosis of its network under its masks.

    The diagnosis and the trace of the path kernel are None if the masks keep everything, the shape of the images is
    unknown, or the network's units cannot be followed. The trace is also None if ``log10_path_kernel_trace`` raises
    an error; its reason is printed.

    Args:
        module: the trained module.
        data: the data of the run.
        digest_before: the digest of the weights before training.
        seconds: the time of training and validation.
    """
    network = module.network
    masks = masking.masks(network)
    kept = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    digest_after = weights_digest(module)
    diagnosis = log10_trace = None
    if kept < total and isinstance(data, ImageDataModule):
        found = diagnosis_of(network, data.image_shape)
        if isinstance(found, Diagnosis):
            diagnosis = found
            try:
                log10_trace = log10_path_kernel_trace(network, masks, data.image_shape)
            except UserError as error:
                print(f"the summary has no trace of the path kernel: {error}", file=sys.stderr)
        else:
            print(f"the summary has no widths and no paths: {found}", file=sys.stderr)
    trainer = module.trainer
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    summary = {
        **{key: value for key, value in module.identity.items() if key != "density"},
        "test_accuracy": metrics.get("test/accuracy"),  # None without test batches
        "test_top5": metrics.get("test/top5"),
        "test_loss": metrics.get("test/loss"),
        "kept": kept,
        "total": total,
        "density": kept / total,
        "log10_paths": diagnosis and _finite(diagnosis.log10_paths),
        "log10_trace": log10_trace and _finite(log10_trace),
        "units_on_paths": diagnosis and {name: layer.alive for name, layer in diagnosis.layers.items()},
        "weights_unchanged": digest_after == digest_before,
        "weights_digest": digest_after,
        "seconds": seconds,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "processes": trainer.world_size,
        "device": device_description(trainer.strategy.root_device),
        "data": type(data).__name__,
        "validated_on": getattr(data, "validated_on", "validation set"),
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
    }
    return summary, diagnosis


def device_description(device: torch.device) -> str:
    """Return the name of a device, and for a CPU also its threads and instructions."""
    name = device_name(device)
    if device.type != "cpu":
        return name
    return f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def best_epoch(run: Path) -> dict[str, float | int]:
    """Return the best validation accuracy of a run and its epoch, counted from 1; nothing without a validation."""
    epochs, values = drawing.read_metrics(run / "metrics.csv").get("val/accuracy", ([], []))
    best = max(filter(math.isfinite, values), default=None)
    return {} if best is None else {"best_val_accuracy": best, "best_epoch": epochs[values.index(best)]}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity


def write(summary: dict[str, Any], path: Path) -> None:
    """Write a summary, whole or not at all."""
    atomic_file.write(path, json.dumps(summary, indent=2) + "\n")


def read(run: Path) -> dict[str, Any] | None:
    """Return the checked summary of a run, or None if the run is not finished."""
    path = run / "summary.json"
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text())
        Summary.model_validate(summary)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({first_mistake(error)}): remove it, and resume the run") from error
    return dict(summary)


def show(summary: dict[str, Any], run: Path, pictures: list[Path]) -> None:
    """Print a summary as a panel."""
    from rich.filesize import decimal

    accuracy, unchanged = summary["test_accuracy"], summary["weights_unchanged"]
    changed = "none but the norms" if summary.get("norms") == "trained" else "none"
    last, best = (" (last.ckpt)", " (best.ckpt)") if (run / "checkpoints" / "last.ckpt").is_file() else ("", "")
    rows = {
        "test accuracy": "not tested" if accuracy is None else f"{accuracy:.2%} after the last epoch{last}",
        "best validation": f"{summary['best_val_accuracy']:.2%} after epoch {summary['best_epoch']}{best}, "
        f"on the {summary['validated_on']}"
        if "best_epoch" in summary
        else "none",
        "weights kept": f"{summary['kept']:,} of {summary['total']:,} ({summary['density']:.1%})",
        "weights changed": f"{changed}: sha256 {summary['weights_digest'][:16]}… before and after"
        if unchanged
        else "yes, by this method",
        "training": f"{summary['epochs']} epochs, {summary['steps']} steps, {summary['seconds']:.1f} s",
        **({"subnet file": f"{decimal(summary['file_bytes'])} (last.subnet)"} if summary.get("file_bytes") else {}),
        "run": str(run),
        "pictures": ", ".join(picture.name for picture in pictures),
    }
    show_panel(rows, f"{run.parent.name}: {summary['method']}")


def show_panel(rows: Mapping[str, str], title: str) -> None:
    """Print names and texts as a panel."""
    from rich.console import Console
    from rich.markup import escape
    from rich.panel import Panel
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", justify="right")
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, escape(printable(text)))
    Console().print(Panel.fit(table, title=escape(printable(title))))
