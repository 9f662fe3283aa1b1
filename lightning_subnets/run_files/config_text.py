"""Read YAML files, and the text of a config with dotted keys, mappings, and short names of arguments.

jsonargparse alone replaces a whole group of the named config by a mapping, and forgets a class if one of its arguments
is set by a dotted key.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from lightning_subnets.errors import UserError

_GROUPS = ("trainer", "model")
_CLASSES = ("data", "model.method", "model.network", "model.optimizer")
_PARTS = ("class_path", "init_args", "dict_kwargs")


def content_of(path: Path, *, aliases: bool = True) -> Any:
    """Return the content of a YAML file; 1e-3 is a number, as in the configs of runs.

    Raises:
        UserError: if the file cannot be read, or has aliases without being allowed to: a few lines of them can stand
            for more values than any machine can hold.
    """
    try:
        text = path.read_text()
        if not aliases and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise UserError(f"{path} has aliases, as *name, which subnets sweep does not write: write the values out")
        return get_loader("yaml")(text)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name another file") from error
    except (ValueError, OverflowError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {error}") from error


def completed(text: str) -> str:
    """Return the text of a config that is ``complete``; text that is not YAML stays, because the parser refuses it."""
    try:
        content = get_loader("yaml")(text)
    except yaml.YAMLError:
        return text
    if not isinstance(content, dict) or [*(found := complete(content)).items()] == [*content.items()]:
        return text
    return dumped(found)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    """Quotes a string such as 1e-3, which is a number for jsonargparse's loader and none for PyYAML."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        try:
            number = isinstance(get_loader("yaml")(text), float)
        except yaml.YAMLError:  # a text with a colon, for instance, which PyYAML quotes itself
            number = False
        except (ValueError, OverflowError, RecursionError):  # "._" for instance, a number without digits
            number = True
        return self.represent_scalar("tag:yaml.org,2002:str", text, '"' if number else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def dumped(content: Any) -> str:
    """Return the YAML of plain values, which jsonargparse's loader reads as they are."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config whose keys jsonargparse understands as they are meant.

    - In a config that names another, a mapping changes what it lists: ``trainer: {max_epochs: 10}`` is
      ``trainer.max_epochs: 10``.
    - ``model.method.density`` is ``model.method.init_args.density``, as on a command line.
    - The named config is read first, so its place in the file does not matter.
    - A class and dotted arguments, ``model.method: IteRand`` and ``model.method.density: 0.2``, are one class.

    Raises:
        UserError: if the key ``config`` is a list, for instance of two configs.
    """
    if not isinstance(config.get("config"), str | None):
        raise UserError("the key config names one config: base one on the other, or name both on the command line, -c")
    found = {name: each for key, value in config.items() for name, each in _spread(key, value, "config" in config)}
    for owner in _CLASSES:
        whole = found.get(owner)
        if isinstance(whole, str | dict):
            whole = {"class_path": whole} if isinstance(whole, str) else whole
            prefix = f"{owner}.init_args."
            own = {key.removeprefix(prefix): found.pop(key) for key in list(found) if str(key).startswith(prefix)}
            if own:
                found[owner] = {**whole, "init_args": {**(whole.get("init_args") or {}), **own}}
    return {"config": found.pop("config"), **found} if "config" in found else found


def _spread(key: Any, value: Any, named: bool) -> Iterator[tuple[Any, Any]]:
    """Yield the dotted keys of a mapping that is not a class, if the config names another, and their values."""
    owner = next((each for each in _CLASSES if f"{key}.".startswith(f"{each}.")), "")
    own = str(key).removeprefix(owner).removeprefix(".")
    if named and isinstance(value, dict) and "class_path" not in value and (key in _GROUPS or own in ("", "init_args")):
        for name, each in value.items():
            yield from _spread(f"{key}.{name}", each, named)
    elif owner and own and own.partition(".")[0] not in _PARTS:
        yield f"{owner}.init_args.{own}", value
    else:
        yield key, value
