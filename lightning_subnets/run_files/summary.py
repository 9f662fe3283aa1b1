"""What a run came to, for people and for programs."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from lightning_subnets import masking
from lightning_subnets._version import versions
from lightning_subnets.atomic_file import replacing
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.errors import UserError, printable
from lightning_subnets.graph.diagnostics import Diagnosis, diagnose, log10_path_kernel_trace
from lightning_subnets.masking import digest
from lightning_subnets.training.module import SubnetModule
from lightning_subnets.training.schema import Count, Strict, first_mistake


class Summary(Strict):
    """The values that are read from a run's summary; the summary of an older version may lack some."""

    method: str | None = None
    weights: str | None = None
    seed: Count | None = None
    test_accuracy: float | None = None
    test_top5: float | None = None
    test_loss: float | None = None
    kept: Count | None = None
    total: Count | None = None
    log10_paths: float | None = None
    log10_trace: float | None = None
    units_on_paths: dict[str, Count] | None = None
    weights_digest: str | None = None
    seconds: float | None = None
    epochs: Count | None = None
    steps: Count | None = None
    device: str | None = None
    data: str | None = None
    finished: str | None = None
    versions: dict[str, str] = Field(default={})


def summarize(
    module: SubnetModule,
    *,
    digest_before: str,
    seconds: float,
    data: str,
    diagnosis: Diagnosis | None,
    log10_trace: float | None,
) -> dict[str, Any]:
    """What was found: accuracy on the test set, weights kept, what is left of paths, whether any weight changed.

    Args:
        digest_before: of the network's weights when training began, see ``digest.weights_digest``.
        seconds: of training, validation included.
        data: the name of the data set.
        diagnosis: of the masks, where there is one.
        log10_trace: of the path kernel, where there is one.
    """
    layers = [layer for _, layer in masking.masked_layers(module.network)]
    kept, total = sum(int(layer.mask().sum()) for layer in layers), sum(layer.weight.numel() for layer in layers)
    digest_after = digest.weights_digest(module.network)
    trainer = module.trainer
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {
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
        "device": _device(trainer.strategy.root_device),
        "data": data,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
    }


def diagnosis(module: SubnetModule, data: LightningDataModule) -> tuple[Diagnosis | None, float | None]:
    """Return the diagnosis of a network under its masks, and log10 of the trace of its path kernel.

    Returns: None for both if the masks keep everything, the shape of the images is unknown, or the network's units
        cannot be followed; None for the trace if the network does not compute in float64.
    """
    network = module.network
    found = trace = None
    if masking.density(network) < 1.0 and isinstance(data, ImageDataModule):
        masks = {name: layer.mask() for name, layer in masking.masked_layers(network)}
        with suppress(UserError):
            with masking.temporarily_unmasked(network):
                found = diagnose(network, data.image_shape, masks)
            trace = log10_path_kernel_trace(network, masks, data.image_shape)
    return found, trace


def _finite(value: float) -> float | None:
    """The value, or None for what JSON has no number for: no path, or more than float64 holds."""
    return value if math.isfinite(value) else None


def _device(device: torch.device) -> str:
    """What computed, by the name that a person knows it by."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = torch.backends.cpu.get_cpu_capability()
    return f"CPU, {torch.get_num_threads()} threads, {cpu}"


def write(summary: dict[str, Any], path: Path) -> None:
    with replacing(path) as file:
        file.write(json.dumps(summary, indent=2).encode() + b"\n")


def read(run: Path) -> dict[str, Any] | None:
    """Return the summary that a run writes when it is finished, or None if it is not finished.

    Raises:
        ValueError: if the file is damaged.
    """
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
    """Print the summary as a person would like to read it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", justify="right")
    table.add_column(overflow="fold")
    accuracy = summary["test_accuracy"]
    table.add_row("test accuracy", "not tested" if accuracy is None else f"{accuracy:.2%}")
    table.add_row("weights kept", f"{summary['kept']:,} of {summary['total']:,} ({summary['density']:.1%})")
    if summary["weights_unchanged"]:
        table.add_row("weights changed", f"none: sha256 {summary['weights_digest'][:16]}… before and after")
    else:
        table.add_row("weights changed", "yes, by this method")
    table.add_row("training", f"{summary['epochs']} epochs, {summary['steps']} steps, {summary['seconds']:.1f} s")
    table.add_row("run", escape(printable(str(run))))
    table.add_row("pictures", ", ".join(picture.name for picture in pictures))
    title = printable(f"{run.parent.name}: {summary['method']}")
    Console().print(Panel.fit(table, title=escape(title)))
