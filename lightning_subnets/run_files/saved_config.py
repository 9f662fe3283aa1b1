"""The resolved config of a run, saved beside its metrics and read again with a checkpoint."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from pydantic import Field

from lightning_subnets import atomic_file, datamodules
from lightning_subnets.datamodules.in_memory import InMemoryDataModule
from lightning_subnets.errors import UserError, printable
from lightning_subnets.run_files.builders import build_of_file
from lightning_subnets.run_files.naming_checkpoints import (
    ROOT,
    absent_checkpoint,
    checkpoint_named,
    no_checkpoint_given,
    run_of,
)
from lightning_subnets.run_files.strict_yaml import read_yaml
from lightning_subnets.subnet_file.container import Container
from lightning_subnets.training.schema import Strict

# Arguments of data that their evaluation does not need.
_OF_TRAINING = ("download", "num_workers", "train_size")

_LARGEST_BATCH = 8192  # of an evaluation, whose result does not depend on it

# Options of a command that ends while it is parsed, or whose config the parser finds incomplete.
_COMPLETE = re.compile("-c|--c|-h|--help|--print_config|--model")


class SaveConfig(SaveConfigCallback):
    """Saves the resolved config as ``config.yaml`` in the run's directory, and logs it.

    If a run is resumed under another config, the previous one is kept as ``config_N.yaml``.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        config = self.config.clone()
        config.pop("version")  # otherwise a fit with this config would resume the run instead of repeating it
        text = self.parser.dump(config, skip_none=False)
        path = Path(str(trainer.loggers[0].save_dir), "config.yaml")
        differences = _differences(read_config(path), yaml.safe_load(text)) if path.exists() else ""
        try:
            if differences:
                names = (path.with_name(f"config_{number}.yaml") for number in itertools.count())
                atomic_file.write(next(name for name in names if not name.exists()), path.read_bytes())
                print(f"resuming under another config: {printable(differences)}", file=sys.stderr)
            if differences or not path.exists():
                atomic_file.write(path, text)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}): free some space, or choose another disk with "
                "--trainer.default_root_dir"
            ) from error
        for logger in trainer.loggers:
            logger.log_hyperparams(config.as_dict())


class _Class(Strict):
    class_path: str
    init_args: dict[str, Any] = Field(default={})


class _Model(Strict):
    network: _Class


class _Config(Strict):
    model: _Model
    data: _Class
    seed_everything: Annotated[int, Field(ge=0, lt=2**32)]


def read_config(path: Path) -> dict[str, Any]:
    """Return the config of a run, with the values checked that are read without jsonargparse."""
    content, _ = read_yaml(path, _Config, "is not the config of a run")
    return dict(content)


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return the values in which two configs differ, except loggers, which may change from call to call."""
    old, new = _leaves(before), _leaves(now)
    return ", ".join(
        f"{key} = {new.get(key)} instead of {old.get(key)}"
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key) and not key.startswith("trainer.logger")
    )


def _leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {key: leaf for name in values for key, leaf in _leaves(values[name], f"{prefix}.{name}".strip(".")).items()}


def with_config_of_checkpoint(args: list[str]) -> list[str]:
    """Return a command line with the config of the checkpoint's run inserted, if the command line has no config.

    A ``.subnet`` file may come from a stranger. Of its config only the data are used, if they are of this package, and
    the smoothing of the loss.
    """
    options = dict(itertools.pairwise([*args, ""])) | dict(option.split("=", 1) for option in args if "=" in option)
    if "-c" in options or "--config" in options:
        return args
    root, name = options.get("--trainer.default_root_dir", ROOT), options.get("--name", "")
    if "--ckpt_path" not in options:
        if args[:1] in (["test"], ["validate"], ["predict"]) and not any(map(_COMPLETE.match, args)):
            raise no_checkpoint_given(args[0], root, name)
        return args
    checkpoint = checkpoint_named(options["--ckpt_path"], root, name)
    if checkpoint.endswith(".subnet"):
        return [
            args[0],
            "--config",
            json.dumps(_evaluation_config(checkpoint, options.get("--model.network"))),
            *args[1:],
        ]
    config = run_of(checkpoint) / "config.yaml"
    if not config.is_file():
        if not Path(checkpoint).exists():
            raise absent_checkpoint(checkpoint)
        return args
    read_config(config)
    return [args[0], "--config", str(config), *args[1:], f"--ckpt_path={checkpoint}"]


def data_of_file(file: Container, path: str | Path) -> tuple[str, dict[str, Any]]:
    """Return the data that a ``.subnet`` file was found on: a class of ``datamodules`` by name, and its arguments.

    A stranger's file does not decide what is downloaded, how many processes are started, nor how much memory is taken.
    The seed is that of the run, because other images would be held out with another.

    Raises:
        ValueError: if the file names no data of this package, or a number is none, or too large.
    """
    data, seed = file.header.config.get("data"), file.header.config.get("seed_everything", 0)
    module, _, kind = str(data.get("class_path")).rpartition(".") if isinstance(data, dict) else ("", "", "")
    # A class of one's own may have the name of one of this package, and other images.
    if not isinstance(data, dict) or kind not in datamodules.__all__ or module not in _modules_of(kind):
        raise UserError(f"{path} does not say which data of this package it is for: give a config, -c FILE")
    arguments = data.get("init_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    arguments = arguments | {"seed": arguments.get("seed", seed)}
    image_size = 256 if issubclass(getattr(datamodules, kind), InMemoryDataModule) else 2048
    for name, largest in (("seed", 2**32 - 1), ("image_size", image_size)):
        if type(value := arguments.get(name, 0)) is not int or not 0 <= value <= largest:
            raise UserError(f"{path} states {name} = {value!r:.60}, expected 0 to {largest}: give a config, -c FILE")
    if type(size := arguments.get("batch_size")) is int:
        arguments["batch_size"] = min(size, _LARGEST_BATCH)
    return kind, {key: value for key, value in arguments.items() if key not in _OF_TRAINING}


def _modules_of(kind: str) -> tuple[str, ...]:
    """Return the modules by which a config can name a class of ``datamodules``."""
    return "", "lightning_subnets", datamodules.__name__, getattr(datamodules, kind).__module__


def _evaluation_config(path: str, named: str | None) -> dict[str, Any]:
    """Return a config that evaluates a ``.subnet`` file on the data of its run.

    The network is built by the builder that the user has named, if any, with the arguments in the file.
    """
    file = Container(path)
    kind, arguments = data_of_file(file, path)
    network = file.header.network
    print(f"evaluating on {kind} {json.dumps(arguments)}", file=sys.stderr)
    build_of_file(file, path, named, "--model.network")  # refuses what is too large
    name = named or network.builder
    # timm's functions take **kwargs, so jsonargparse does not know the names of their arguments.
    key = "dict_kwargs" if name.startswith("timm.") else "init_args"
    model = file.header.config.get("model")
    smoothing = model.get("label_smoothing") if isinstance(model, dict) else 0.0
    smoothing = smoothing if isinstance(smoothing, float) and 0.0 <= smoothing <= 1.0 else 0.0
    return {
        "seed_everything": arguments.pop("seed"),  # which is linked to that of the data
        "model": {
            "network": {"class_path": name, key: network.arguments},
            "method": "lightning_subnets.Dense",
            "weights": None,
            # Then test/loss is that of the run.
            "label_smoothing": smoothing,
        },
        "data": {"class_path": f"lightning_subnets.datamodules.{kind}", "init_args": arguments},
        "trainer": {"precision": "64-true" if network.dtype == "float64" else "32-true"},
    }
