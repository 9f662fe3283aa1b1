"""A run's resolved config, kept beside its metrics."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from lightning_subnets.atomic_file import replacing


class SaveConfig(SaveConfigCallback):
    """Keeps the resolved config beside the run's metrics, and hands it to the loggers that show it.

    Where a run goes on under another config, that becomes ``config.yaml`` and the one before ``config_N.yaml``.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        config = self.config.clone()
        config.pop("version")  # or who repeats the run would go on with it
        text = self.parser.dump(config, skip_none=False)
        path = Path(str(trainer.loggers[0].save_dir), "config.yaml")
        differences = _differences(path.read_text(), text) if path.exists() else ""
        if differences:
            kept = (path.with_name(f"config_{number}.yaml") for number in itertools.count())
            shutil.copyfile(path, next(free for free in kept if not free.exists()))
            print(f"going on under another config: {differences}", file=sys.stderr)
        if differences or not path.exists():
            with replacing(path) as file:
                file.write(text.encode())
        for logger in trainer.loggers:
            logger.log_hyperparams(config.as_dict())


def _differences(before: str, now: str) -> str:
    """The values that two configs differ in, but for loggers, which each run is given anew."""
    old, new = (_leaves(yaml.safe_load(text)) for text in (before, now))
    keys = [k for k in dict.fromkeys((*old, *new)) if old.get(k) != new.get(k) and not k.startswith("trainer.logger")]
    return ", ".join(f"{key} = {new.get(key)} instead of {old.get(key)}" for key in keys)


def _leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {key: leaf for name in values for key, leaf in _leaves(values[name], f"{prefix}.{name}".strip(".")).items()}
