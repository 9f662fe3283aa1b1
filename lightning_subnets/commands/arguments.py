"""The arguments of a command line, as both commands take them."""

from __future__ import annotations

import os
import sys


def with_home(args: list[str] | None) -> list[str]:
    """Return a command line, by default that of this process, in which ``--out=~/runs`` names the home directory.

    A shell does this for ``--out ~/runs``. After an = bash does not, and a directory named ~ would be made. A ``~``
    alone is YAML's null.
    """
    return [_expanded(each) for each in (sys.argv[1:] if args is None else args)]


def _expanded(argument: str) -> str:
    option, equals, value = argument.partition("=")
    named = option.startswith("--") and value.startswith("~/")
    return option + equals + os.path.expanduser(value) if named else argument
