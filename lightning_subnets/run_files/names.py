"""Names that become parts of paths."""

from __future__ import annotations

from lightning_subnets.errors import UserError


def plain_name(value: object, what: str) -> str:
    """Return a name that a user or a file gives, if it can be the name of one directory.

    Args:
        value: the name.
        what: what the name is and where it comes from, to begin the error with.

    Raises:
        ValueError: if the name is empty, a path, hidden, not a string, or has characters that cannot be printed.
    """
    if isinstance(value, str) and value and value[0] != "." and not {*value} & {*"/\\"} and value.isprintable():
        return value
    raise UserError(
        f"{what} is {value!r}: it names a directory, so use a name that does not begin with a dot and has no /, no \\ "
        "and no control characters"
    )
