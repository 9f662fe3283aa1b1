"""YAML files that may be damaged or a stranger's, read against a schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from lightning_subnets.errors import UserError
from lightning_subnets.training.schema import first_mistake

_LONGEST_NUMBER = 100  # characters of a number in YAML


def read_yaml(path: Path, schema: Any, otherwise: str) -> tuple[Any, Any]:
    """Return the content of a YAML file, and the same as an instance of a schema.

    Raises:
        ValueError: if the file cannot be read, or does not fit; ``otherwise`` says what the file then is.
    """
    try:
        content = yaml.load(path.read_text(), _PlainLoader)
        return content, TypeAdapter(schema).validate_python(content)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its path and its permissions") from error
    except ValidationError as error:
        raise UserError(f"{path} {otherwise}: {first_mistake(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Refuses a key that is there twice, of which YAML's own loader keeps the last, the key ``<<`` and long numbers.

    A few lines with ``<<`` can stand for more keys than any machine can read. Numbers in hexadecimal or in base 60,
    as 1:30, escape Python's limit of 4,300 digits, and a long one takes minutes. No file of this package needs them.
    """

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") and len(node.value) > _LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(
                problem=f"a number has {len(node.value):,} characters: write at most {_LONGEST_NUMBER}",
                problem_mark=node.start_mark,
            )
        return super().construct_scalar(node)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    problem="the key << merges mappings: write their keys out", problem_mark=key.start_mark
                )
        super().flatten_mapping(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in keys:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r:.100} is there twice: remove one", problem_mark=key.start_mark
                )
            keys.add((key.tag, key.value))
        return dict(super().construct_mapping(node, deep))
