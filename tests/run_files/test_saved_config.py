"""The configs of a run that is resumed under other ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from jsonargparse import Namespace

from lightning_subnets.run_files.saved_config import SaveConfig


def test_every_earlier_config_of_a_run_is_kept(tmp_path: Path) -> None:
    logger = SimpleNamespace(save_dir=tmp_path, log_hyperparams=lambda _: None)
    trainer: Any = SimpleNamespace(loggers=[logger])
    given: Any = Namespace(version=None)  # type: ignore[no-untyped-call]
    module: Any = None
    for epochs in (1, 2, 2, 3):
        config: dict[str, Any] = {"model": {"network": {"class_path": "Conv2"}}, "data": {"class_path": "Digits"}}
        text = yaml.safe_dump(config | {"seed_everything": 0, "trainer": {"max_epochs": epochs}})
        parser: Any = SimpleNamespace(dump=lambda *_, text=text, **__: text)
        SaveConfig(parser, given).save_config(trainer, module, "fit")
    kept = {path.name: yaml.safe_load(path.read_text())["trainer"]["max_epochs"] for path in tmp_path.iterdir()}
    assert kept == {"config_0.yaml": 1, "config_1.yaml": 2, "config.yaml": 3}
