"""Where a run's metrics go: always ``metrics.csv`` in the run's directory, and the loggers that the config adds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger

from lightning_subnets.training.loggers.dashboard import Dashboard
from lightning_subnets.training.loggers.metrics_file import MetricsFile
from lightning_subnets.training.loggers.tensorboard import TensorBoard

__all__ = ["Dashboard", "MetricsFile", "TensorBoard", "add_pictures", "configure", "finish"]


def configure(chosen: Any, run: Path, *, step: int | None) -> list[Namespace]:
    """Return the configuration of a run's loggers.

    The list starts with ``MetricsFile``, which replaces Lightning's ``CSVLogger``. ``Dashboard`` replaces its
    ``WandbLogger``, ``TensorBoard`` its ``TensorBoardLogger``, and both write into the run's directory. Any other
    logger keeps its own options.

    Args:
        chosen: the config's ``trainer.logger``: a logger, a list of loggers, a bool or None.
        run: the run's directory.
        step: the number of optimizer steps in the checkpoint from which the run resumes; None for a new run.
    """
    csv = Namespace(save_dir=str(run), step=step)  # type: ignore[no-untyped-call]
    loggers = [Namespace(class_path=_path(MetricsFile), init_args=csv)]  # type: ignore[no-untyped-call]
    for logger in chosen if isinstance(chosen, list) else [chosen]:
        if not isinstance(logger, Namespace):  # a bool or None
            continue
        package, _, name = logger.class_path.partition(".")
        # Another package may have a class of the same name. A config that a run has saved names the replacements.
        match name.rpartition(".")[2] if package in ("lightning", "lightning_subnets") else None:
            case "CSVLogger" | "MetricsFile":
                continue
            case "WandbLogger" | "Dashboard":
                logger.class_path = _path(Dashboard)
                logger.init_args["save_dir"] = str(run)
            case "TensorBoardLogger" | "TensorBoard":
                logger.class_path = _path(TensorBoard)
                # With an empty name and version, it writes into the run's directory itself.
                for option, value in {"save_dir": str(run), "name": "", "version": ""}.items():
                    logger.init_args[option] = value
        loggers.append(logger)
    return loggers


def finish(loggers: Iterable[Logger], exit_code: int) -> None:
    """Tell the W&B run, if there is one, the exit code of the process."""
    for logger in loggers:
        if isinstance(logger, Dashboard):
            logger.finish(exit_code)


def add_pictures(loggers: Iterable[Logger], pictures: Iterable[Path]) -> None:
    """Add the pictures of a run to W&B and TensorBoard, as ``pictures/curves`` for instance."""
    for logger in loggers:
        if isinstance(logger, Dashboard | TensorBoard):
            logger.add_pictures(pictures)


def _path(kind: type[Logger]) -> str:
    return f"{__name__}.{kind.__name__}"
