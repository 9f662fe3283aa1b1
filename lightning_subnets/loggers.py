"""Where a run's metrics go: always a CSV file in the run's directory, and what the config adds to it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace


def configure(chosen: Any, run: Path) -> list[Namespace]:
    """The configuration of a run's loggers.

    Args:
        chosen: what the config says under ``trainer.logger``: nothing, a logger, or several.
        run: the run's directory; every logger writes into it.

    Returns: a CSV logger, then those chosen, each told where to write. Weights & Biases goes offline where it
        finds no API key, or cannot use the one it finds.
    """
    loggers = [_logger("CSVLogger", run)]
    for logger in chosen if isinstance(chosen, list) else [chosen]:
        if not isinstance(logger, Namespace):  # True, False or None: the CSV file alone
            continue
        kind = logger.class_path.rpartition(".")[2]
        if kind == "WandbLogger":
            logger.init_args.save_dir = str(run)
            if logger.init_args.get("name") is None:
                logger.init_args.name = f"{run.parent.name}/{run.name}"
            if logger.init_args.get("project") in (None, "lightning_logs"):
                logger.init_args.project = "lightning-subnets"
            if not logger.init_args.get("offline"):
                logger.init_args.offline = _wandb_is_offline(run)
            loggers.append(logger)
        elif kind == "TensorBoardLogger":
            loggers.append(_logger(kind, run))
        elif kind != "CSVLogger":
            loggers.append(logger)
    return loggers


def _logger(kind: str, run: Path) -> Namespace:
    # Without a name and a version of its own, it writes into the run's directory itself.
    place = Namespace(save_dir=str(run), name="", version="")  # type: ignore[no-untyped-call]
    return Namespace(class_path=f"lightning.pytorch.loggers.{kind}", init_args=place)  # type: ignore[no-untyped-call]


def _wandb_is_offline(run: Path) -> bool:
    """Whether W&B cannot be reached as a known user; then it is told to be quiet, and one line says what to do."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return True
    import wandb  # half a second that only its users should wait

    try:
        if wandb.login(prompt=False):
            return False
        reason = "no API key on this machine"
    except wandb.errors.Error as error:
        reason = f"W&B did not accept this machine's API key ({error})"
    wandb.teardown()  # or what it has read of the environment would stand
    os.environ["WANDB_SILENT"] = "true"
    print(f"W&B: {reason}, so the run is logged offline; later: wandb sync {run}/wandb/offline-run-*", file=sys.stderr)
    return True
