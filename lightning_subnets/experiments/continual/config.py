"""The file of a continual experiment: a config of ``lightning fit``, and the option that changes with the task."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lightning_subnets.errors import UserError
from lightning_subnets.run_files.config_text import content_of
from lightning_subnets.run_files.shipped_configs import config_of
from lightning_subnets.training.schema import first_mistake


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Experiment:
    """Tasks that are learned one after the other.

    Args:
        config: the config of ``lightning fit`` that learns one task, relative to this file, or a shipped one.
        option: of that config, by its dotted key. Its value is the number of the task, from 0.
        tasks: the number of tasks.
    """

    config: str
    option: str
    tasks: int


def read(path: Path) -> tuple[Experiment, Path]:
    """Return the content of a file, and the path of the config in it.

    Raises:
        UserError: if it is missing or no such file, or the config is missing.
    """
    try:
        found = TypeAdapter(Experiment).validate_python(content_of(path))
    except ValidationError as error:
        raise UserError(f"{path} is not a continual experiment: {first_mistake(error)}") from error
    if found.tasks < 2:
        raise UserError(f"{path} has tasks = {found.tasks}: expected 2 or more")
    if not found.option.startswith("data."):
        raise UserError(f"{path} changes {found.option}, but tasks share network and method: name an option of data")
    config = config_of(found.config, path.parent)
    if not config.is_file():
        raise UserError(f"{config} is missing: it is the config of {path}")
    return found, config
