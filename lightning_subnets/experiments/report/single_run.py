"""The pictures of one run, from what it has left in its directory."""

from __future__ import annotations

import re
import tempfile
from contextlib import suppress
from pathlib import Path

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.graph.diagnostics import Diagnosis, diagnose
from lightning_subnets.run_files import drawing
from lightning_subnets.run_files.run_directory import RunDirectory
from lightning_subnets.run_files.saved_config import read_config
from lightning_subnets.run_files.saved_run import SavedRun


def pictures(run: Path) -> dict[str, bytes]:
    """The files by name, PNGs and PDFs: those that the run draws when it ends, from what is there of it by now."""
    layers, diagnosis = _layers(run)
    held_out = read_config(run / "config.yaml")["data"].get("init_args", {}).get("validation_fraction")
    drawn = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in ("png", "pdf"):
            for path in drawing.draw_run(
                run,
                layers=layers,
                evaluated_on="held-out images" if held_out else "test set",
                diagnosis=diagnosis,
                out=Path(folder),
                form=form,
            ):
                drawn[path.name] = path.read_bytes()
    return drawn


def _layers(run: Path) -> tuple[list[str], Diagnosis | None]:
    """The masked layers in the network's order, and what the masks of the last checkpoint leave of them.

    Where the checkpoint or the data are gone, the layers that the metrics name, and no diagnosis.
    """
    layers, diagnosis = _named(run), None
    checkpoint = RunDirectory(run).last_checkpoint
    with suppress(UserError):
        if checkpoint is not None:
            saved = SavedRun(str(checkpoint))
            network = saved.module().network
            layers = [name for name, _ in masking.masked_layers(network)]
            if masking.density(network) < 1.0:
                diagnosis = diagnose(network, saved.data().image_shape)
    return layers, diagnosis


def _named(run: Path) -> list[str]:
    """The layers that the metrics name, ``features.2`` before ``features.10``."""
    metrics = drawing.read_metrics(run / "metrics.csv")
    layers = (name.removeprefix("density/") for name in metrics if name.startswith("density/"))
    return sorted(
        layers, key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    )
