"""The description beside a file is checked as carefully as the file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_subnets import UserError
from lightning_subnets.datamodules.ffcv.beton import Beton, description_path, verify

Description = dict[str, Any]


@pytest.fixture
def path(betons: Path, tmp_path: Path) -> Path:
    for name in ("val.beton", "val.beton.json"):
        (tmp_path / name).write_bytes((betons / name).read_bytes())
    return tmp_path / "val.beton"


def without(key: str) -> Callable[[Description], str]:
    return lambda right: json.dumps({name: value for name, value in right.items() if name != key})


def changed(**values: object) -> Callable[[Description], str]:
    return lambda right: json.dumps(right | values)


UNREADABLE, OTHER = "val.beton.json cannot be read", "val.beton.json does not describe a data set"
WRONG: dict[str, tuple[Callable[[Description], str], str]] = {
    "empty": (lambda _: "", UNREADABLE),
    "cut": (lambda right: json.dumps(right)[:-1], UNREADABLE),
    "no text": (lambda _: "\udcff", UNREADABLE),
    "too deep": (lambda _: "[" * 100000, UNREADABLE),
    "a list": (lambda right: json.dumps([right]), OTHER),
    "without classes": (without("classes"), OTHER),
    "without a digest": (without("structure_sha256"), OTHER),
    "without the other": (without("payload_sha256"), OTHER),
    "classes that are numbers": (changed(classes=[1, 2, 3]), OTHER),
    "classes that are one text": (changed(classes="abc"), OTHER),
    "of another file": (changed(structure_sha256="0" * 64), "is not the one that val.beton.json describes"),
    "a class too few": (changed(classes=["cat", "dog"]), "it has a label 2 and 2 classes"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_description_is_an_error(wrong: Callable[[Description], str], message: str, path: Path) -> None:
    place = description_path(path)
    place.write_text(wrong(json.loads(place.read_text())), errors="surrogateescape")
    for check in (Beton.open, verify):
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            check(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_without_a_description_classes_are_numbers_and_verify_has_nothing_to_compare(path: Path) -> None:
    described = Beton.open(path)
    assert described.classes == json.loads(description_path(path).read_text())["classes"]
    description_path(path).unlink()
    assert Beton.open(path).classes == ["0", "1", "2"]
    assert Beton.open(path).labels.tolist() == described.labels.tolist()
    with pytest.raises(UserError, match=r"val\.beton\.json is missing"):
        verify(path)


def test_a_wrong_digest_of_the_images_is_found_by_verify(path: Path) -> None:
    place = description_path(path)
    place.write_text(changed(payload_sha256="0" * 64)(json.loads(place.read_text())))
    Beton.open(path)
    with pytest.raises(UserError, match="its images are not the bytes that were written"):
        verify(path)
