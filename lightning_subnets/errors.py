"""Mistakes a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake a user can mend: the message gives the value, what is allowed and what to do next.

    The command line prints the message without a traceback and exits with code 2. A file's name that is no UTF-8 is
    escaped in it, so that the message can be written anywhere.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.encode(errors="backslashreplace").decode())


def unknown(kind: str, value: str, known: Iterable[str]) -> UserError:
    """The error for a name that nothing has: the nearest known name first, then all of them."""
    names = sorted(known)
    nearest = difflib.get_close_matches(value, names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {value!r}.{hint} Known: {', '.join(names)}.")
