"""A run that is restored from a checkpoint and the config beside it: its network, its data and its results."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from torch import nn

from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.errors import UserError, printable
from lightning_subnets.masking.masked_weight import masked_weights, multipliers
from lightning_subnets.run_files.builders import (
    accept_builders_without_annotation,
    as_constructor_error,
    current_directory_last,
    leave_defaults_to_builder,
)
from lightning_subnets.run_files.naming_checkpoints import run_of
from lightning_subnets.run_files.saved_config import read_config
from lightning_subnets.run_files.summary import read as read_summary
from lightning_subnets.subnet_file import save_subnet
from lightning_subnets.training import checkpoint
from lightning_subnets.training.module import SubnetModule


class SavedRun:
    """The run of a checkpoint, whose ``config.yaml`` is in the directory above the checkpoint's."""

    def __init__(self, path: str) -> None:
        if path.endswith(".subnet"):
            raise UserError(
                f"{path} is a .subnet file, but this command needs the checkpoint of a run: "
                "name its checkpoints/last.ckpt"
            )
        self._content = checkpoint.read(path)
        self._folder = run_of(path)
        config = self._folder / "config.yaml"
        if not config.is_file():
            raise UserError(
                f"{config} is missing: it says how the network of {path} is built. "
                "Keep the checkpoint in the directory of its run"
            )
        self._config = read_config(config)

    def module(self) -> SubnetModule:
        """Return the module with the weights and the masks of the checkpoint, ready to evaluate."""
        accept_builders_without_annotation()
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(SubnetModule, "model", fail_untyped=False)
        module: SubnetModule = self._instantiate(parser, "model", "seed")
        if checkpoint.in_float64(self._content):
            module.double()
        checkpoint.validate_and_complete_(self._content, module, to_train=False)
        module.load_state_dict(self._content["state_dict"])
        return module

    def data(self) -> ImageDataModule:
        """Return the data of the run, if they still exist and are an ``ImageDataModule``."""
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(LightningDataModule, "data", fail_untyped=False)
        data = self._instantiate(parser, "data", "init_args.seed")
        if not isinstance(data, ImageDataModule):
            raise UserError(
                f"{type(data).__name__} is not an ImageDataModule, so its images are unknown here: derive it from "
                "lightning_subnets.datamodules.images.ImageDataModule"
            )
        return data

    def details(self, network: nn.Module, summary: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the optional arguments of ``save_subnet`` for this run.

        ``network`` is masked. ``summary`` is that of the run; by default it is read from the run's directory, if it is
        there.
        """
        learned: dict[str, Any] = self._content["run"].get("data", {"classes": []})
        classes: list[str] = learned["classes"]
        preprocessing: dict[str, Any] = {}
        try:
            data = self.data()
            classes, preprocessing = classes or data.classes, data.preprocessing
        except UserError as error:
            left_out = "the preprocessing is" if classes else "classes and preprocessing are"
            print(f"{left_out} left out: {printable(str(error))}", file=sys.stderr)
        # A file goes to other machines, on which the directory of this run and its loggers say nothing.
        config = copy.deepcopy(self._config)
        trainer = config.get("trainer")
        trainer = trainer if isinstance(trainer, dict) else {}
        for name in ("default_root_dir", "logger"):
            trainer.pop(name, None)
        summary = summary or read_summary(self._folder) or {}
        limit = trainer.get("limit_test_batches")
        limited = limit is not None and (type(limit), limit) != (float, 1.0)  # the integer 1 is one batch
        if limited or summary.get("steps") != self._content["global_step"] or not _computes_with_its_masks(network):
            summary = {}
        accuracy = {name: summary.get(name) for name in ("test_accuracy", "test_top5")}
        return {
            "network": self._config["model"]["network"],
            "classes": classes,
            "accuracy": {name: value for name, value in accuracy.items() if value is not None},
            "preprocessing": preprocessing,
            "config": config,
        }

    def _instantiate(self, parser: ArgumentParser, key: str, seed: str) -> Any:
        """Return the object that the config describes under ``key``. The config states the seed elsewhere."""
        try:
            with current_directory_last():  # the config is the user's, see SECURITY.md
                parsed = parser.parse_object({key: self._config[key]})
            if f"{key}.{seed}" in parsed:  # a data module of one's own may have no seed
                parsed[f"{key}.{seed}"] = self._config["seed_everything"]
            if key == "model":
                leave_defaults_to_builder(parsed.model.network)
            return parser.instantiate(parsed)[key]
        except Exception as error:  # a class that a config names may raise anything
            raise as_constructor_error(error) from error


@torch.no_grad()
def _computes_with_its_masks(network: nn.Module) -> bool:
    """Return whether a masked network computes with the w * m that its file has.

    A ``Supermask`` draws other masks than the likeliest one, and a method of one's own may have a soft mask.
    """
    weights = masked_weights(network)
    if any(each.method.draws_masks for each in weights.values()):
        return False
    if all(each.method.cacheable for each in weights.values()):
        return True  # without choosing the masks of a large network once more
    masks = multipliers(network)
    pairs = (
        (each.method.uncached_weight(each), each.method.effective_weight(each.weight, masks[name]))
        for name, each in weights.items()
        if not each.method.cacheable
    )
    return all(torch.allclose(computed, saved, rtol=1e-5, atol=0.0) for computed, saved in pairs)


def save_subnet_beside(last_checkpoint: Path | None, module: SubnetModule, summary: Mapping[str, Any]) -> int | None:
    """Save the subnetwork of a run that is done as ``last.subnet`` beside its last checkpoint.

    Returns: the size in bytes, or None if no file is saved. None is saved without a checkpoint, nor if the method
        trains the weights, because they would be stored twice. If a file cannot hold the network, the reason is
        printed.
    """
    if last_checkpoint is None or module.method.trainable != "scores":
        return None
    path = last_checkpoint.with_suffix(".subnet")
    try:
        save_subnet(module.network, path, **SavedRun(str(last_checkpoint)).details(module.network, summary), force=True)
    except UserError as error:
        print(f"the run has no {path.name}: {printable(str(error))}", file=sys.stderr)
        return None
    return path.stat().st_size
