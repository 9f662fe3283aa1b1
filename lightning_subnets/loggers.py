"""Where a run's metrics go: always a CSV file in the run's directory, and what the config adds to it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

_HERE = {"CSVLogger", "TensorBoardLogger"}


def configure(chosen: Any, run: Path) -> list[Namespace]:
    """The configuration of a run's loggers.

    Args:
        chosen: what the config says under ``trainer.logger``: nothing, a logger, or several.
        run: the run's directory.

    Returns: a CSV logger and those chosen. CSV, TensorBoard and Weights & Biases write into the run's directory;
        any other goes where its own options say. Weights & Biases goes offline where it finds no API key, or cannot
        use the one it finds.
    """
    # True, False and None choose nothing beside the CSV file.
    loggers = [logger for logger in (chosen if isinstance(chosen, list) else [chosen]) if isinstance(logger, Namespace)]
    if not any(_kind(logger) == "CSVLogger" for logger in loggers):
        options = Namespace()  # type: ignore[no-untyped-call]
        csv = Namespace(class_path="lightning.pytorch.loggers.CSVLogger", init_args=options)  # type: ignore[no-untyped-call]
        loggers.insert(0, csv)
    # The first is asked for the directory that the config is saved in.
    loggers.sort(key=lambda logger: _kind(logger) != "CSVLogger")
    loggers[0].init_args.prefix = ""  # the pictures are drawn from its columns
    for logger in loggers:
        if _kind(logger) in _HERE:
            # Without a name and a version of its own, it writes into the run's directory itself.
            logger.init_args.save_dir, logger.init_args.name, logger.init_args.version = str(run), "", ""
        elif _kind(logger) == "WandbLogger":
            _configure_wandb(logger.init_args, run)
    return loggers


def _kind(logger: Namespace) -> str:
    name: str = logger.class_path.rpartition(".")[2]
    return name


def _configure_wandb(options: Namespace, run: Path) -> None:
    options.save_dir = str(run)
    # A name that a saved config brings along is that of the run it was saved by.
    if options.get("name") is None or re.fullmatch(r".*/version_\d+", options.name):
        options.name = f"{run.parent.name}/{run.name}"
    if options.get("project") in (None, "lightning_logs"):
        options.project = "lightning-subnets"
    if not options.get("offline") and os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun"):
        _go_offline_if_unknown(run)


def _go_offline_if_unknown(run: Path) -> None:
    """Where W&B knows no user, make it quiet and offline and say in a line what to do."""
    import wandb  # half a second that only its users should wait

    try:
        if wandb.login(prompt=False):
            return
        reason = "no API key on this machine"
    except wandb.errors.Error as error:
        reason = f"W&B did not accept this machine's API key ({error})"
    wandb.teardown()  # or what it has read of the environment would stand
    # In the environment, not in the config, which is saved: the next run looks for a key again.
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
    wandb.setup()  # quiet from here on, before it comments on what Lightning hands it
    print(f"W&B: {reason}, so the run is logged offline; later: wandb sync {run}/wandb/offline-run-*", file=sys.stderr)
