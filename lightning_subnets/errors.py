"""Mistakes that a user can correct, and text from files made safe to print."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_MAX_LENGTH = 2000  # characters of a message, which may quote a value from a file
_MOST = 50  # known names in a message
_LISTED = 4  # names of a few


class UserError(ValueError):
    """A mistake that a user can correct: the message gives the value, what is allowed and what to do next.

    The command line prints the message without a traceback and exits with code 2. File names that are not UTF-8 are
    escaped, so that any terminal or log can take the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.encode(errors="backslashreplace").decode())


class UnwritableError(UserError):
    """A directory or a file that cannot be written: the reason, and what to do about it."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}: {advice}")
        self.reason = reason


def as_user_error(error: Exception) -> UserError:
    """Return the error of a parser, or of a class that a config names, as a ``UserError`` of one line."""
    if isinstance(error.__cause__, UserError):
        return error.__cause__
    message = printable(" ".join(str(error).split()))
    return UserError(message if len(message) <= _MAX_LENGTH else f"{message[:_MAX_LENGTH]}...")


def unknown(kind: str, value: str, known: Iterable[str]) -> UserError:
    """Return the error for an unknown name: it suggests the nearest known name, then lists the known ones."""
    names = sorted(known)
    return UserError(
        f"unknown {kind} {value!r}.{did_you_mean(value, names)} "
        f"Known: {', '.join(names[:_MOST])}{', ...' if names[_MOST:] else ''}."
    )


def did_you_mean(value: str, names: Iterable[str]) -> str:
    """Return a sentence with the known name nearest to an unknown one, after a space; "" if none is near."""
    nearest = difflib.get_close_matches(value, names, n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def printable(text: str) -> str:
    r"""Return a text from a file, or a file's name, as one line that is safe to print on a terminal.

    Newlines, terminal escapes, marks that change the direction of writing and all other unprintable characters become
    Python's escapes, ``\n`` and ``\x1b`` for instance.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Join a few names, or the first names and the number of the others."""
    if len(names) > _LISTED + 1:
        names = [*names[:_LISTED], f"and {len(names) - _LISTED} more"]
    return separator.join(names)
