"""The section of one run in a report, drawn from the files in the run's directory."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from lightning_subnets import masking
from lightning_subnets.errors import UserError
from lightning_subnets.experiments.report import tables
from lightning_subnets.experiments.report.finding import Summary
from lightning_subnets.experiments.report.page import RunSection
from lightning_subnets.graph.diagnostics import Diagnosis, diagnose
from lightning_subnets.run_files import drawing
from lightning_subnets.run_files.run_directory import RunDirectory
from lightning_subnets.run_files.saved_config import read_config
from lightning_subnets.run_files.saved_run import SavedRun


def section(run: Path, summary: Summary | None) -> RunSection:
    """Draw a run's pictures as PNG and PDF, also for a run that is not finished, and tabulate its summary."""
    layers, diagnosis = _layers(run)
    held_out = read_config(run / "config.yaml")["data"].get("init_args", {}).get("validation_fraction")
    evaluated_on, files = "held-out images" if held_out else "test set", {}
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        for form in ("png", "pdf"):
            drawing.draw_run(run, layers=layers, evaluated_on=evaluated_on, diagnosis=diagnosis, out=out, form=form)
        files = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
    table = tables.of_runs({(run.parent.name, run.name): summary})
    return RunSection(f"{run.parent.name}, {run.name}", files, table, summary)


def _layers(run: Path) -> tuple[list[str], Diagnosis | None]:
    """Return the masked layers in the network's order, and the diagnosis of the last checkpoint's masks.

    If the checkpoint or the data are gone, return the layers that the metrics name, and no diagnosis.
    """
    metrics = drawing.read_metrics(run / "metrics.csv")
    layers = [name.removeprefix("density/") for name in metrics if name.startswith("density/")]
    diagnosis = None
    checkpoint = RunDirectory(run).last_checkpoint
    with suppress(UserError):
        if checkpoint is not None:
            saved = SavedRun(str(checkpoint))
            network = saved.module().network
            layers = [name for name, _ in masking.masked_layers(network)]
            if masking.density(network) < 1.0:
                diagnosis = diagnose(network, saved.data().image_shape)
    return layers, diagnosis
