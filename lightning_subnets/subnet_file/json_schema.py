"""Check JSON of unknown origin against dataclasses, at every depth."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
from dataclasses import MISSING
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lightning_subnets.errors import UserError


def parse(kind: Any, value: Any, place: str) -> Any:
    """Return a JSON value as an instance of the type ``kind``, checked at every depth; objects become dataclasses."""
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        types, required = _fields(kind)
        if missing := required - value.keys():
            raise UserError(f"{place} has no {min(missing)!r}")
        if unknown := value.keys() - types.keys():
            raise UserError(f"{place} has an unknown key {min(unknown)!r:.60}")
        return kind(**{key: parse(types[key], each, f"{place}.{key}") for key, each in value.items()})
    if kind is str and isinstance(value, str) and not _is_text(value):
        raise UserError(f"{place} is not a text, because it has half of a surrogate pair: {value!r:.60}")
    if origin is dict and isinstance(value, dict):
        return {key: parse(inner[1], each, f"{place}.{key!r:.60}") for key, each in value.items()}
    if origin is list and isinstance(value, list):
        return [parse(inner[0], each, place) for each in value]
    if type(None) in inner:
        return None if value is None else parse(inner[0], value, place)
    if kind is float:
        fits = type(value) in (int, float) and abs(value) < 1e308
    elif origin is Literal:
        fits = type(value) is str and value in inner
    else:
        fits = kind is Any or type(value) is kind
    if not fits:
        plain = dict if dataclasses.is_dataclass(kind) else origin or kind
        expected = " or ".join(map(repr, inner)) if origin is Literal else plain.__name__
        raise UserError(f"{place} is {reprlib.repr(value):.200}, expected {expected}")
    return float(value) if kind is float else value


def _is_text(value: str) -> bool:
    """Return whether a string can be encoded; in JSON, half of a surrogate pair is a character too."""
    return not any(0xD800 <= ord(each) < 0xE000 for each in value)


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the types of a dataclass's fields, and the names of the required ones."""
    fields = dataclasses.fields(kind)
    return get_type_hints(kind), {each.name for each in fields if each.default is each.default_factory is MISSING}
