"""The version of this package, and of those that a run's numbers depend on."""

from __future__ import annotations

import sys
from importlib import metadata

try:
    __version__ = metadata.version("lightning-subnets")
except metadata.PackageNotFoundError:  # the repository is on the path, but the package is not installed
    __version__ = "0.0.0"


def versions() -> dict[str, str]:
    """Return the versions of this package, torch, torchvision and Lightning, without importing them.

    A package that is imported already also tells its build, ``2.11.0+cu130`` for instance.
    """
    return {"lightning_subnets": __version__} | {
        name: getattr(sys.modules.get(name), "__version__", None) or metadata.version(name)
        for name in ("torch", "torchvision", "lightning")
    }


def in_words() -> str:
    """Return what ``--version`` prints after the name of the command."""
    return "of " + ", ".join(f"{name.replace('_', '-')} {version}" for name, version in versions().items())
