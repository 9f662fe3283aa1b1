"""The help of ``lightning``'s commands in three screens: this package's options, and the names of the Trainer's."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from jsonargparse import DefaultHelpFormatter

from lightning_subnets import datamodules, methods, networks

_TRAINER = "https://lightning.ai/docs/pytorch/stable/common/trainer.html"
_HIDDEN = ("trainer", "model", "predictions", "weights_only", "print_config", "model.seed", "data.init_args.seed")
_SUBCOMMANDS = {
    "fit": "Train a network, and test it if there are test images.",
    "validate": "Evaluate a checkpoint on the validation images.",
    "test": "Evaluate a checkpoint or a .subnet file on the test images.",
    "predict": "Classify images by a checkpoint or a .subnet file, and write a CSV file.",
}
DESCRIPTIONS = {
    "description": "Find, test and apply a network inside a network.",
    **{name: {"description": text} for name, text in _SUBCOMMANDS.items()},
}
# Lightning's headings of groups, which are the beginnings of docstrings.
_HEADINGS = {"A DataModule": "data", "Runs the": "checkpoint", "Perform one": "checkpoint", "Run inf": "checkpoint"}
_HELP = {  # replaces longer texts, and those of Lightning
    **_SUBCOMMANDS,
    "config": "A config: the path of a file, or a name that subnets configs lists",
    "ckpt_path": "Checkpoint of a run, the run's directory, last or best of the newest run, or a .subnet file to "
    "evaluate. If no config is given, the config.yaml of the checkpoint's run is used, which can name any code to run: "
    "take a stranger's network as a .subnet file, which runs no code, see SECURITY.md",
    "trainer.max_epochs": "epochs to train",
    "trainer.max_steps": "optimizer steps to train, at most",
    "trainer.max_time": "stop this call after DD:HH:MM:SS, with a checkpoint; the same command resumes the run",
    "trainer.precision": "32-true (default), bf16-mixed, 16-mixed or 64-true",
    "trainer.accelerator": "cpu, gpu or auto (default)",
    "trainer.devices": "the number of processes, each on its own GPU (default: auto)",
    "trainer.logger": "class paths, such as WandbLogger or TensorBoardLogger; metrics.csv is always written",
    "trainer.callbacks": "class paths, for example of lightning_subnets.training.callbacks",
    "trainer.default_root_dir": "the directory of all runs (default: runs)",
    "model.network": "any class path of a network, or of a function that returns one: "
    "torchvision.models.NAME, timm.models.NAME, your own, or one of lightning_subnets.networks:",
    "model.method": "how to find the subnetwork, by name or by any class path; --model.method.help NAME lists its "
    "arguments. Most methods need --model.method.density, the fraction of weights kept, in (0, 1]:",
    "model.optimizer": "any class path of an optimizer. It updates the parameters that are trained (default: SGD)",
    "data": "any class path of a LightningDataModule, or one of these; --data.help NAME lists its arguments:",
}
_LISTED = {"model.network": networks, "model.method": methods, "data": datamodules}


class Help(DefaultHelpFormatter):
    """Leaves out what makes jsonargparse's help a thousand lines.

    Those are the subclasses that are imported of each option's type, 597 for ``model.network``, and the documentation
    of the Trainer.
    """

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, max_help_position=28, **kwargs)  # type: ignore[no-untyped-call]

    def add_usage(self, usage: str | None, actions: Iterable[Action], *args: Any, **kwargs: Any) -> None:
        actions = list(actions)
        if any(action.dest == "model.network" for action in actions):
            usage = "%(prog)s [-c CONFIG] [--KEY VALUE ...]"
        super().add_usage(usage, actions, *args, **kwargs)

    def start_section(self, heading: str | None) -> None:
        own = (name for start, name in _HEADINGS.items() if heading and heading.startswith(start))
        super().start_section(next(own, heading))

    def add_arguments(self, actions: Iterable[Action]) -> None:
        shown, others = [], []
        for action in actions:
            if action.dest.startswith("trainer.") and action.dest not in _HELP:
                others.append(action.dest.removeprefix("trainer."))
            elif not action.dest.endswith(".help") and action.dest not in _HIDDEN:
                shown.append(action)
        super().add_arguments(shown)
        if names := [name for name in others if not name.endswith(".help")]:
            self.add_text(f"Further options --trainer.NAME, see {_TRAINER}: {', '.join(names)}")

    def _format_action(self, action: Action) -> str:
        text = super()._format_action(action)
        return text + _list(_LISTED[action.dest], self._width) if action.dest in _LISTED else text

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings or _is_of_a_class(action):
            return super()._format_action_invocation(action)
        return ", ".join(action.option_strings[:1] if "." in action.dest else action.option_strings)

    def _get_help_string(self, action: Action) -> str:
        if action.dest in _HELP:
            return _HELP[action.dest]
        if _is_of_a_class(action):
            return super()._get_help_string(action)
        text = (action.help or "").rstrip(".")
        unset = action.default in (None, SUPPRESS) or not action.option_strings
        return text if unset else f"{text} (default: %(default)s)"


def _is_of_a_class(action: Action) -> bool:
    """Return whether an option is in the help of one class, such as ``--model.method.density``."""
    return action.dest.count(".") > 1


def _list(module: ModuleType, width: int) -> str:
    """Return a line for each public name of a module: the name, and the first sentence of its docstring."""
    lines = []
    for name in sorted(module.__all__, key=str.lower):
        line = f"    {name:<18}{(getattr(module, name).__doc__ or '').strip().splitlines()[0]}"
        lines.append(line if len(line) <= width else f"{line[: width - 3]}...")
    return "\n".join(lines) + "\n"
