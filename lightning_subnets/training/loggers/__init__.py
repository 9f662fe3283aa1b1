"""Where a run's metrics go: always ``metrics.csv`` in the run's directory, and what the config adds to it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger

from lightning_subnets.training.loggers.dashboard import Dashboard
from lightning_subnets.training.loggers.metrics_file import MetricsFile
from lightning_subnets.training.loggers.tensorboard import TensorBoard

__all__ = ["Dashboard", "MetricsFile", "TensorBoard", "configure", "finish"]

# What is put in the place of Lightning's loggers, and of itself where the config is one that a run has saved.
_CSV = {"CSVLogger", MetricsFile.__name__}
_WANDB = {"WandbLogger", Dashboard.__name__}
_TENSORBOARD = {"TensorBoardLogger", TensorBoard.__name__}


def configure(chosen: Any, run: Path, *, step: int | None) -> list[Namespace]:
    """The configuration of a run's loggers.

    Args:
        chosen: what the config says under ``trainer.logger``: nothing, a logger, or several.
        run: the run's directory.
        step: the optimizer steps done by the checkpoint that the run goes on from; None for a new run.

    Returns: first ``MetricsFile``, then those chosen, with ``Dashboard`` for Lightning's ``WandbLogger`` and
        ``TensorBoard`` for its ``TensorBoardLogger``. These write into the run's directory; any other logger writes
        where its own options say.
    """
    here = {"save_dir": str(run), "step": step}
    loggers = [_logger(MetricsFile, here)]
    # True, False and None choose nothing beside the CSV file.
    for logger in chosen if isinstance(chosen, list) else [chosen]:
        if not isinstance(logger, Namespace):
            continue
        kind = logger.class_path.rpartition(".")[2]
        if kind in _CSV:
            continue
        if kind in _WANDB:
            logger.class_path = _path(Dashboard)
            _set(logger, **here)
        elif kind in _TENSORBOARD:
            logger.class_path = _path(TensorBoard)
            # Without a name and a version of its own, it writes into the run's directory itself.
            _set(logger, save_dir=str(run), name="", version="")
        loggers.append(logger)
    return loggers


def finish(loggers: Iterable[Logger], exit_code: int) -> None:
    """Close what only the end of the process closes: W&B's run, which is told how the process ends."""
    for logger in loggers:
        if isinstance(logger, Dashboard):
            logger.finish(exit_code)


def _set(logger: Namespace, **options: Any) -> None:
    for name, value in options.items():
        logger.init_args[name] = value


def _logger(kind: type[Logger], options: dict[str, Any]) -> Namespace:
    return Namespace(class_path=_path(kind), init_args=Namespace(**options))  # type: ignore[no-untyped-call]


def _path(kind: type[Logger]) -> str:
    return f"{__name__}.{kind.__name__}"
