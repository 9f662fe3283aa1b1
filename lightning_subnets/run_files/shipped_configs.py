"""The configs that this package ships, by name: ``quickstart``, ``cifar10/conv4_signed``, ``figures/figure3``."""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
import textwrap
from functools import cache
from pathlib import Path

from lightning_subnets.errors import UserError, printable

FOLDER = (Path(__file__).parents[1] / "configs").resolve()  # in a checkout, a link to the repository's configs


@cache
def shipped_configs() -> dict[str, Path]:
    """Return the files of all shipped configs, by name."""
    paths = sorted(FOLDER.rglob("*.yaml"), key=lambda path: (path.parent != FOLDER, path))
    return {str(path.relative_to(FOLDER).with_suffix("")): path for path in paths}


def shipped_config(value: str, folder: Path = Path()) -> Path | None:
    """Return the shipped config that a value names, with or without ``.yaml``.

    Args:
        value: a value of a command line or of a config.
        folder: where the value is a path, if there is such a file; a path is preferred to a name.

    Returns:
        None if the value is the path of a file, or names no shipped config.
    """
    found = shipped_configs().get(value.removesuffix(".yaml"))
    return None if found is None or (folder / value).is_file() else found


def config_of(value: str, folder: Path) -> Path:
    """Return the config that a value in a file names: a shipped one, or a path relative to the file's folder."""
    return shipped_config(value, folder) or folder / value


def named_config(value: str, group: str) -> Path:
    """Return the file that a user names: a path, or the name of a shipped config, which may leave out its group.

    A path is preferred to a name: ``figure3.yaml`` is a copy that ``subnets configs --copy figures/figure3`` has made.

    Raises:
        UserError: if there is neither, with the nearest names, or if the file is for another command.
    """
    path = Path(value)
    found = path if path.is_file() else shipped_config(value) or shipped_config(f"{group}/{value}") or path
    if not found.is_file():
        raise UserError(no_config(value, group))
    expected, kind = {
        "figures": ("subnets sweep", "figure"),
        "continual": ("subnets continual", "continual experiment"),
    }[group]
    if (command := command_for(found)) not in ("", expected):
        raise UserError(f"{value} is not a {kind}; its command is: {command} {printable(shlex.quote(value))}")
    return found


def no_config(value: str, group: str = "") -> str:
    """Return the error for a value that is neither a path nor a name, with the nearest names of a group."""
    by_stem: dict[str, list[str]] = {}
    for name, path in shipped_configs().items():
        if name.startswith(group):
            by_stem.setdefault(path.stem, []).append(name)
    nearest = difflib.get_close_matches(Path(value).stem, by_stem, n=3)
    names = [name for stem in nearest for name in by_stem[stem]][:3]
    hint = f" Did you mean {' or '.join(names)}?" if names else ""
    return f"{value} is not a file, and no config of this package has that name.{hint} All names: subnets configs"


def description(path: Path) -> str:
    """Return what a config is, in a line: the title of a figure, or the first sentence of the comment at its top."""
    text = path.read_text()
    if title := re.match(r'title: "(.*)"', text):
        return title[1]
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    comment = " ".join(line.removeprefix("#").strip() for line in lines)
    return textwrap.shorten(re.split(r"\.(?= [A-Z]|$)", comment)[0], 84, placeholder=" ...")


def command_for(path: Path) -> str:
    """Return the command that a config is for, by the keys at the start of its lines; empty if they do not say."""
    try:
        text = path.read_text(errors="replace") if path.is_file() else ""  # a pipe can be read only once
    except OSError:
        return ""  # because whatever reads the content has the error for it
    keys = set(re.findall(r"(?m)^(\w+)", text))
    if {"lines", "scales"} <= keys:
        return "subnets sweep"
    if {"option", "tasks"} <= keys:
        return "subnets continual"
    runs = not keys & {"title", "lines", "scales", "option", "tasks"}  # a figure that lacks a key is not a run's
    return "lightning fit -c" if runs and keys & {"config", "model", "data", "trainer"} else ""


def copy_of(path: Path) -> str:
    """Return the text of a shipped config that can be used anywhere: it names its base, or its folders, by name."""

    def by_name(found: re.Match[str]) -> str:
        base = (path.parent / found[2]).resolve().relative_to(FOLDER)
        return f"{found[1]}{base.with_suffix('') if base.name else '.'}"

    return re.sub(r"(?m)^(config: |    configs: )(\S+)", by_name, path.read_text())
