"""The nearest name, when a command line names something that does not exist."""

from __future__ import annotations

import difflib
import re

from torchvision import models

from lightning_subnets import datamodules, methods, networks

# What each key of a config can name, beside any class path.
_KNOWN = {
    "model.method": [*methods.__all__],
    "model.network": [
        *(f"lightning_subnets.networks.{name}" for name in networks.__all__),
        *(f"torchvision.models.{name}" for name in models.list_models(module=models)),
    ],
    "data": [*(f"lightning_subnets.datamodules.{name}" for name in datamodules.__all__)],
}


def suggestion(message: str) -> str:
    """What to add to a parser's error: the nearest name to a wrong one, and those that are known.

    Args:
        message: the parser's, which names the key and the value.
    """
    key = re.search(r'key "([\w.]+)"', message)
    wrong = re.search(
        r"(?:class_path '|import path string: |Not a valid subclass of \w+\. Got value: )([\w.]+)", message
    )
    if key is None or wrong is None or key[1] not in _KNOWN:
        return ""
    known = _KNOWN[key[1]]
    nearest = difflib.get_close_matches(wrong[1], known, n=3) or difflib.get_close_matches(
        wrong[1], [name.rpartition(".")[2] for name in known], n=3
    )
    hint = f"\nDid you mean {' or '.join(nearest)}?" if nearest else ""
    return f"{hint}\nKnown: {', '.join(known)}."
