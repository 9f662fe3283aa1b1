"""A run's resolved config, kept beside its metrics, and taken from there."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from pydantic import Field, ValidationError

from lightning_subnets import datamodules
from lightning_subnets.atomic_file import replacing
from lightning_subnets.errors import UserError, printable
from lightning_subnets.subnet_file.container import NUMBERS_PER_BYTE, Container
from lightning_subnets.subnet_file.network import build, builder
from lightning_subnets.training.schema import Strict, first_mistake


class SaveConfig(SaveConfigCallback):
    """Keeps the resolved config beside the run's metrics, and hands it to the loggers that show it.

    Where a run goes on under another config, that becomes ``config.yaml`` and the one before ``config_N.yaml``.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        config = self.config.clone()
        config.pop("version")  # or who repeats the run would go on with it
        text = self.parser.dump(config, skip_none=False)
        path = Path(str(trainer.loggers[0].save_dir), "config.yaml")
        differences = _differences(read_config(path), yaml.safe_load(text)) if path.exists() else ""
        try:
            if differences:
                kept = (path.with_name(f"config_{number}.yaml") for number in itertools.count())
                _write(path.read_bytes(), next(free for free in kept if not free.exists()))
                print(f"resuming under another config: {printable(differences)}", file=sys.stderr)
            if differences or not path.exists():
                _write(text.encode(), path)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}): make room, or name another disk with "
                "--trainer.default_root_dir"
            ) from error
        for logger in trainer.loggers:
            logger.log_hyperparams(config.as_dict())


def _write(content: bytes, path: Path) -> None:
    with replacing(path) as file:
        file.write(content)


class _Class(Strict):
    class_path: str
    init_args: dict[str, Any] = Field(default={})


class _Model(Strict):
    network: _Class


class _Config(Strict):
    """The values that are read from a run's config without a parser, which checks the rest."""

    model: _Model
    data: _Class
    seed_everything: Annotated[int, Field(ge=0, lt=2**32)]


def read_config(path: Path) -> dict[str, Any]:
    """Return the config that a run keeps beside its checkpoints.

    Raises:
        ValueError: if the file cannot be read, or is not the config of a run.
    """
    try:
        config = yaml.safe_load(path.read_text())
        _Config.model_validate(config)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise UserError(f"{path} is not the config of a run: {first_mistake(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    return dict(config)


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The values that two configs differ in, but for loggers, which each run is given anew."""
    old, new = _leaves(before), _leaves(now)
    keys = [k for k in dict.fromkeys((*old, *new)) if old.get(k) != new.get(k) and not k.startswith("trainer.logger")]
    return ", ".join(f"{key} = {new.get(key)} instead of {old.get(key)}" for key in keys)


def _leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {key: leaf for name in values for key, leaf in _leaves(values[name], f"{prefix}.{name}".strip(".")).items()}


def with_config_of_checkpoint(args: list[str]) -> list[str]:
    """The arguments; with the config of the run that a checkpoint is from, where no config is given.

    That of a ``.subnet`` file may be from anybody: of its config only the data are taken, and those of this package.
    """
    options = dict(itertools.pairwise([*args, ""])) | dict(option.split("=", 1) for option in args if "=" in option)
    if "-c" in options or "--config" in options or "--ckpt_path" not in options:
        return args
    if options["--ckpt_path"].endswith(".subnet"):
        return [args[0], "--config", json.dumps(_to_evaluate(options["--ckpt_path"])), *args[1:]]
    config = Path(options["--ckpt_path"]).parent.parent / "config.yaml"
    if not config.is_file():
        return args
    read_config(config)
    return [args[0], "--config", str(config), *args[1:]]


def _to_evaluate(path: str) -> dict[str, Any]:
    """A config of the network of a ``.subnet`` file, and of the data that it was evaluated on."""
    file = Container(Path(path))
    header = file.header
    data: Any = header.config.get("data")
    kind = str(data.get("class_path")).rpartition(".")[2] if isinstance(data, dict) else ""
    if not isinstance(data, dict) or kind not in datamodules.__all__:
        raise UserError(f"{path} does not say which data of this package it is for: give a config, -c FILE")
    # What it reads is said, and nothing is fetched by it.
    arguments: Any = data.get("init_args") if isinstance(data.get("init_args"), dict) else {}
    arguments = {key: value for key, value in arguments.items() if key not in ("download", "num_workers")}
    print(f"on {kind} {json.dumps(arguments)}", file=sys.stderr)
    if builder(header.network.builder) is None:
        raise UserError(f"{path} is of the network {header.network.builder}: give a config that builds it, -c FILE")
    build(header.network.builder, header.network.arguments, at_most=NUMBERS_PER_BYTE * file.size)
    # timm's functions name none of their arguments.
    key = "dict_kwargs" if header.network.builder.startswith("timm.") else "init_args"
    network = {"class_path": header.network.builder, key: header.network.arguments}
    return {
        "model": {"network": network, "method": "lightning_subnets.Dense", "weights": None},
        "data": {"class_path": f"lightning_subnets.datamodules.{kind}", "init_args": arguments},
    }
