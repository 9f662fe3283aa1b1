"""Suggestions for a command line with a name that does not exist."""

from __future__ import annotations

import difflib
import re

from torchvision import models

from lightning_subnets import datamodules, methods, networks

# The class paths that a key of a config can have without being a user's own: each module, and the names in it.
_KNOWN = {
    "model.method": {methods.__name__: methods.__all__},
    "model.network": {networks.__name__: networks.__all__, models.__name__: models.list_models(module=models)},
    "data": {datamodules.__name__: datamodules.__all__},
}
_WRONG = re.compile(r"(?:class_path '|import path string: |Not a valid subclass of \w+\. Got value: )([\w.]+)")


def suggestion(message: str) -> str:
    """Return what to add to a parser's error: the nearest names and the known ones, or the key to use instead.

    Args:
        message: the parser's error, which has the key and the value.
    """
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
