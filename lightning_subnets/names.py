"""Names that become parts of paths."""

from __future__ import annotations

from lightning_subnets.errors import UserError


def plain_name(value: object, what: str) -> str:
    """A name from a file, if it names one thing in the directory that it is looked for in.

    Args:
        what: has that name, and in which file.

    Raises:
        ValueError: if it is empty, no text, a path, hidden, or has characters that cannot be printed.
    """
    if isinstance(value, str) and value and value[0] != "." and not {*value} & {*"/\\"} and value.isprintable():
        return value
    raise UserError(
        f"{what} is {value!r}: it becomes the name of a directory, so it has to be without / and \\ and control "
        "characters, and cannot begin with a dot"
    )
