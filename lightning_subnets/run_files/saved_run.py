"""A run from its checkpoint and the config beside it: its network, and its data where they are wanted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule

from lightning_subnets.datamodules import ImageNet
from lightning_subnets.datamodules.crops import shorter_side
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.errors import UserError, as_user_error, printable
from lightning_subnets.methods import Supermask
from lightning_subnets.run_files.builders import leave_defaults_to_builder, without_defaults_of_callees
from lightning_subnets.run_files.saved_config import read_config
from lightning_subnets.run_files.summary import read as read_summary
from lightning_subnets.training import checkpoint
from lightning_subnets.training.module import SubnetModule

_MEASURED = ("test_accuracy", "test_top5")


class SavedRun:
    """What a checkpoint is of.

    Args:
        path: of the checkpoint; its config.yaml stands in the directory above.

    Raises:
        ValueError: if one of the two is missing or damaged, or they are of different runs.
    """

    def __init__(self, path: str) -> None:
        if path.endswith(".subnet"):
            raise UserError(f"{path} is a .subnet file, and what is wanted here is a run's checkpoint")
        self._content = checkpoint.read(path)
        self._folder = Path(path).resolve().parent.parent
        config = self._folder / "config.yaml"
        if not config.is_file():
            raise UserError(f"{config} is missing: it says how the network of {path} is built")
        self._config = read_config(config)

    def module(self) -> SubnetModule:
        """The module with the weights and the masks of the checkpoint, to evaluate."""
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(SubnetModule, "model", fail_untyped=False)
        module: SubnetModule = self._instantiated(parser, {"model": self._config["model"]}, "seed").model
        if checkpoint.in_float64(self._content):
            module.double()
        checkpoint.validate_and_complete_(self._content, module, to_train=False)
        module.load_state_dict(self._content["state_dict"])
        return module

    def data(self) -> ImageDataModule:
        """The data it was trained on.

        Raises:
            ValueError: if they are not there any more, or are no ``ImageDataModule``.
        """
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(LightningDataModule, "data", fail_untyped=False)
        data = self._instantiated(parser, {"data": self._config["data"]}, "init_args.seed").data
        if not isinstance(data, ImageDataModule):
            raise UserError(f"{type(data).__name__} is no ImageDataModule, whose images could be looked at here")
        return data

    def details(self) -> dict[str, Any]:
        """What a ``.subnet`` file says of it beside the network, as arguments of ``save_subnet``."""
        classes: list[str] = []
        preprocessing: dict[str, Any] = {}
        try:
            data = self.data()
            preprocessing = {"input_shape": list(data.image_shape), "mean": list(data.mean), "std": list(data.std)}
            if isinstance(data, ImageNet):
                preprocessing["resize"] = shorter_side(data.image_shape[-1])
            classes = data.classes
        except UserError as error:
            reason = printable(str(error))
            print(
                f"classes and preprocessing are left out, because the run's data are not here: {reason}",
                file=sys.stderr,
            )
        accuracy = {name: value for name, value in self._summary().items() if name in _MEASURED and value is not None}
        return {
            "network": without_defaults_of_callees(self._config["model"]["network"]),
            "classes": classes,
            "accuracy": accuracy,
            "preprocessing": preprocessing,
            "config": self._config,
        }

    def _summary(self) -> dict[str, Any]:
        """What the run came to, if that is at this checkpoint, and by the mask that is likeliest."""
        summary = read_summary(self._folder) or {}
        drawn_anew = summary.get("method") == Supermask.__name__
        return {} if drawn_anew or summary.get("steps") != self._content["global_step"] else summary

    def _instantiated(self, parser: ArgumentParser, config: dict[str, Any], seed: str) -> Namespace:
        (key,) = config
        try:
            parsed = parser.parse_object(config)
            parsed[f"{key}.{seed}"] = self._config["seed_everything"]  # which the config does not say twice
            if key == "model":
                leave_defaults_to_builder(parsed.model.network)
            objects: Namespace = parser.instantiate(parsed)
            return objects
        except Exception as error:  # a class that a config names may raise anything
            raise as_user_error(error) from error
