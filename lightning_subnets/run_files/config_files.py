"""The configs that a command line names, read without resolving anything in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from lightning_subnets.run_files.shipped_configs import shipped_config


class Entry(NamedTuple):
    """A key of a config file, with the keys around it, and its value if that is a scalar."""

    file: Path
    line: int
    key: str
    value: str


def entries(args: Sequence[str], here: Path) -> Iterator[Entry]:
    """Yield the keys of all config files that a command line names, and of the configs that these name.

    ``here`` is the directory that the command was given in: jsonargparse changes it while it reads a config.

    Files that cannot be read are left out, because the parser has the error for them.
    """
    waiting = [path for arg in args for path in _paths(arg.partition("=")[2] if arg[:1] == "-" else arg, here)]
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file.resolve() in seen:
            continue
        seen.add(file.resolve())
        try:
            root = yaml.compose(file.read_text(), Loader=yaml.SafeLoader)
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            continue
        for entry in _walk(root, file, ""):
            yield entry
            waiting += _paths(entry.value, file.parent)


def _paths(value: str, folder: Path) -> list[Path]:
    if shipped := shipped_config(value, folder):
        return [shipped]
    return [folder / value] if value.endswith((".yaml", ".yml", ".json")) and (folder / value).is_file() else []


def _walk(node: yaml.Node | None, file: Path, prefix: str) -> Iterator[Entry]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}.{key.value}".lstrip(".")
            if not isinstance(value, yaml.ScalarNode):
                yield Entry(file, key.start_mark.line + 1, name, "")
            yield from _walk(value, file, name)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _walk(each, file, prefix)
    elif isinstance(node, yaml.ScalarNode):
        yield Entry(file, node.start_mark.line + 1, prefix, node.value)
