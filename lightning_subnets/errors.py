"""Mistakes a user can mend, and how they and a stranger's text are printed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 2000  # characters of a message that a value from a file may be in


class UserError(ValueError):
    """A mistake a user can mend: the message gives the value, what is allowed and what to do next.

    The command line prints the message without a traceback and exits with code 2. A file's name that is no UTF-8 is
    escaped in it, so that the message can be written anywhere.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.encode(errors="backslashreplace").decode())


def as_user_error(error: Exception) -> UserError:
    """The mistake behind an error of a parser, or of a class that a config names: its message in one line."""
    if isinstance(error.__cause__, UserError):
        return error.__cause__
    message = printable(" ".join(str(error).split()))
    return UserError(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}...")


def unknown(kind: str, value: str, known: Iterable[str]) -> UserError:
    """The error for a name that nothing has: the nearest known name first, then all of them."""
    names = sorted(known)
    nearest = difflib.get_close_matches(value, names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {value!r}.{hint} Known: {', '.join(names)}.")


def printable(text: str) -> str:
    r"""A text that may be a stranger's, from a file or a file's name, as one line that a terminal only shows.

    Newlines, the escapes that a terminal obeys, marks that turn the direction of writing and all else that is not
    printable are written as Python writes them, ``\n`` and ``\x1b`` for instance.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
