"""The parser of the ``lightning`` command, with short errors that suggest a name or an option."""

from __future__ import annotations

import shlex
import sys
from argparse import Action
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from jsonargparse import Namespace
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.cli import LightningArgumentParser

from lightning_subnets.commands import failures, mistakes
from lightning_subnets.commands.help import Help
from lightning_subnets.commands.mistakes import CommandLine
from lightning_subnets.errors import printable
from lightning_subnets.run_files import config_text
from lightning_subnets.run_files.shipped_configs import command_for, shipped_config


def _config(value: Any) -> Any:
    """Return the path of a shipped config instead of its name; other values are the parser's, such as paths."""
    if not isinstance(value, str):
        return value
    path = shipped_config(value)
    if (command := command_for(path or Path(value))).startswith("subnets"):
        failures.end(f"{value} is not the config of a run; its command is: {command} {printable(shlex.quote(value))}")
    return str(path) if path else value


class Parser(LightningArgumentParser):
    """A parser whose errors are short and suggest the nearest name, and whose subcommands have a short help.

    Attributes:
        line: the command line of this process, which errors in it or in its configs refer to.
    """

    line: ClassVar[CommandLine] = CommandLine()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviation may be another option: --model.lr would set model.lr_batch_size.
        super().__init__(*args, **{"formatter_class": Help, "allow_abbrev": False, **kwargs})

    def add_argument(self, *args: Any, **kwargs: Any) -> Action:
        action: Action = super().add_argument(*args, **kwargs)
        if action.dest == "config":
            action.type = _config  # the parser calls it for --config and for the key config of a config
        return action

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parse the command line of this process, and say what a class keeps of the one that it replaces."""
        self.line.check_seeds()
        found: Namespace = super().parse_args(*args, **kwargs)
        if self._subcommands_action and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            for key in mistakes.REPLACEABLE:
                if kept := self.line.kept(key, found[found.subcommand][key]):
                    print(kept, file=sys.stderr)
        return found

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parse the text of a config, from a file too."""
        found: Namespace = super().parse_string(config_text.completed(content), *args, **kwargs)
        return found

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        subcommands = self._subcommands_action.choices if self._subcommands_action else {}
        parser = getattr(ex, "subcommand_parser", None) or subcommands.get(next(iter(self.line.args), ""), self)
        known = [action.dest for action in parser._actions if action.dest not in ("help", "print_config")]
        if short := mistakes.explained(message.strip(), known, self.line):
            failures.end(short)
        tip = "lightning fit -c quickstart is a start, lightning fit --help lists the options"
        failures.end(message, tip=tip)
