"""The parser of the ``lightning`` command, with short errors and its own help for ``--ckpt_path``."""

from __future__ import annotations

from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from lightning_subnets.commands import failures
from lightning_subnets.commands.suggestions import suggestion

_CHECKPOINT = (
    "Checkpoint of a run, or a .subnet file to evaluate. If no config is given, the config.yaml of the checkpoint's "
    "run is used, which can name any code to run: take a stranger's network as a .subnet file, which runs no code, "
    "see SECURITY.md."
)


class Parser(LightningArgumentParser):
    """A parser whose errors have no usage before them."""

    def add_method_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        added: list[str] = super().add_method_arguments(*args, **kwargs)
        for action in self._actions:
            if action.dest == "ckpt_path":
                action.help = _CHECKPOINT  # Lightning's help describes values that are not allowed here
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        tip = "lightning fit -c configs/quickstart.yaml is a start, lightning fit --help lists every option"
        failures.end(f"{message.strip()}{suggestion(message)}", tip=tip)
