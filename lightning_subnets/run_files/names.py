"""Names that become parts of paths."""

from __future__ import annotations

from lightning_subnets.errors import UserError


def plain_name(value: object, what: str) -> str:
    """Return a value that can be the name of one directory; ``what`` begins the error message about any other."""
    if isinstance(value, str) and value and value[0] != "." and not {*value} & {*"/\\"} and value.isprintable():
        return value
    raise UserError(
        f"{what} is {value!r}: it names a directory, so use a name that does not begin with a dot and has no /, no \\ "
        "and no control characters"
    )


def name_below(value: str, what: str) -> str:
    """Return a value that can be the path of a directory below another, such as ``sweep/first``."""
    try:
        for part in value.split("/"):
            plain_name(part, what)
    except UserError as error:
        raise UserError(
            f"{what} is {value!r}: the run would not be below --trainer.default_root_dir, so use names without .. and "
            "without a leading dot or slash, such as 'first' or 'sweep/first'"
        ) from error
    return value
