"""The parser of the ``lightning`` command, with short errors that suggest a name or an option."""

from __future__ import annotations

import difflib
import re
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from torchvision import models

from lightning_subnets import datamodules, methods, networks
from lightning_subnets.commands import failures

_CHECKPOINT = (
    "Checkpoint of a run, the run's directory, last or best of the newest run, or a .subnet file to evaluate. If no "
    "config is given, the config.yaml of the checkpoint's run is used, which can name any code to run: take a "
    "stranger's network as a .subnet file, which runs no code, see SECURITY.md."
)
# The known class paths of a config's keys: each module, and the names in it.
_KNOWN = {
    "model.method": {methods.__name__: methods.__all__},
    "model.network": {networks.__name__: networks.__all__, models.__name__: models.list_models(module=models)},
    "data": {datamodules.__name__: datamodules.__all__},
}
_WRONG = re.compile(r"(?:class_path '|import path string: |Not a valid subclass of \w+\. Got value: )([\w.]+)")


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
        failures.end(f"{message.strip()}{_suggestion(message)}", tip=tip)


def _suggestion(message: str) -> str:
    """Return what to add to a parser's error: the nearest names and the known ones, or the key to use instead."""
    if refused := re.search(r"Option '(\w+)' is not accepted", message):
        return f"\nAn option that a builder takes as **kwargs is --model.network.dict_kwargs.{refused[1]}=..."
    key, wrong = re.search(r'key "([\w.]+)"', message), _WRONG.search(message)
    if key is None or wrong is None or key[1] not in _KNOWN:
        return ""
    modules = _KNOWN[key[1]]
    paths = {name: f"{module}.{name}" for module, names in modules.items() for name in names}
    nearest = difflib.get_close_matches(wrong[1].rpartition(".")[2], paths, n=3)
    hint = f"\nDid you mean {' or '.join(paths[name] for name in nearest)}?" if nearest else ""
    return hint + "".join(f"\nKnown in {module}: {', '.join(names)}." for module, names in modules.items())
