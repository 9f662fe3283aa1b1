"""What Lightning prints that a user cannot act on."""

from __future__ import annotations

import logging
import warnings

_EXPECTED_WARNINGS = (
    ".*LeafSpec.* is deprecated",  # Lightning 2.6 causes this one itself under torch 2.15
    "The `srun` command is available",  # SLURM is installed, but this run is not a job
    "Checkpoint directory .* exists and is not empty",  # a run resumes in its directory
    # The evaluation of a checkpoint needs none of the callbacks that trained it.
    "Be aware that when using `ckpt_path`, callbacks",
    "You're using the WeightAveraging callback, but loading a checkpoint",
    ".*ModelCheckpoint.*could not find the monitored key",  # the run ends before its first validation
    "The number of training batches .* is smaller than the logging interval",  # metrics are logged by epoch only
)


def quiet() -> None:
    """Keep Lightning from printing what a user cannot act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):  # hides advertisements and the list of the hardware
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("profilers", "callbacks.early_stopping", "callbacks.model_summary"):  # print only if a user adds one
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    # Show the message that rank 0 kills all ranks because another rank has ended.
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
