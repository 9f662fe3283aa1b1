"""The common parts of the schemas of checkpoints, configs, summaries and results."""

from __future__ import annotations

import reprlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=0, lt=2**63)]


class Strict(BaseModel):
    """A schema that accepts values of the exact type and converts none."""

    model_config = ConfigDict(strict=True)


def first_mistake(error: Exception) -> str:
    """Describe in one line what is wrong with a file.

    If a schema found the mistake, the line says where the value is, what it is and what it should be.
    """
    if not isinstance(error, ValidationError):
        return f"{error!s:.200}"
    found = error.errors(include_url=False)[0]
    value = "" if found["type"] == "missing" else f" is {reprlib.repr(found['input']):.200}:"
    place = ".".join(map(str, found["loc"])) or "its content"
    return f"{place!r:.120}{value} {found['msg'].removeprefix('Value error, ')}"
