"""The nearest name, when a command line names something that does not exist."""

from __future__ import annotations

import difflib
import re

from torchvision import models

from lightning_subnets import datamodules, methods, networks

# What each key of a config can name, beside any class path: the modules, and the names in them.
_KNOWN = {
    "model.method": {methods.__name__: methods.__all__},
    "model.network": {networks.__name__: networks.__all__, models.__name__: models.list_models(module=models)},
    "data": {datamodules.__name__: datamodules.__all__},
}


def suggestion(message: str) -> str:
    """What to add to a parser's error: the nearest name to a wrong one and those that are known, or the right place.

    Args:
        message: the parser's, which names the key and the value.
    """
    if refused := re.search(r"Option '(\w+)' is not accepted", message):
        return (
            f"\nWhat a builder takes as **kwargs stands under dict_kwargs: --model.network.dict_kwargs.{refused[1]}=..."
        )
    key = re.search(r'key "([\w.]+)"', message)
    wrong = re.search(
        r"(?:class_path '|import path string: |Not a valid subclass of \w+\. Got value: )([\w.]+)", message
    )
    if key is None or wrong is None or key[1] not in _KNOWN:
        return ""
    modules = _KNOWN[key[1]]
    paths = {name: f"{module}.{name}" for module, names in modules.items() for name in names}
    nearest = difflib.get_close_matches(wrong[1].rpartition(".")[2], paths, n=3)
    hint = f"\nDid you mean {' or '.join(paths[name] for name in nearest)}?" if nearest else ""
    return hint + "".join(f"\nKnown in {module}: {', '.join(names)}." for module, names in modules.items())
