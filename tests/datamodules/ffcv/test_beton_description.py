"""What is told beside a file about it is read with the same care."""

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


WRONG: dict[str, tuple[Callable[[Description], str], str]] = {
    "empty": (lambda _: "", "val.beton.json cannot be read"),
    "cut": (lambda right: json.dumps(right)[:-1], "val.beton.json cannot be read"),
    "null": (lambda _: "null", "val.beton.json does not describe a data set"),
    "a list": (lambda right: json.dumps([right]), "val.beton.json does not describe a data set"),
    "without classes": (without("classes"), "val.beton.json does not describe a data set"),
    "without a digest": (without("structure_sha256"), "val.beton.json does not describe a data set"),
    "without the other": (without("payload_sha256"), "val.beton.json does not describe a data set"),
    "of another file": (changed(structure_sha256="0" * 64), "is not the one that val.beton.json describes"),
    "a digest that is none": (changed(structure_sha256=None), "is not the one that val.beton.json describes"),
    "a class too few": (changed(classes=["cat", "dog"]), "it has a label 2 and 2 classes"),
    "no class": (changed(classes=[]), "it has a label 2 and 0 classes"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_description_that_is_not_one_is_an_error(
    wrong: Callable[[Description], str], message: str, path: Path
) -> None:
    place = description_path(path)
    place.write_text(wrong(json.loads(place.read_text())))
    for check in (Beton.open, verify):
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            check(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_description_that_is_no_text_or_a_directory_is_an_error(path: Path) -> None:
    place = description_path(path)
    place.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"val\.beton\.json cannot be read"):
        Beton.open(path)
    place.unlink()
    place.mkdir()
    with pytest.raises(UserError, match=r"val\.beton\.json cannot be read"):
        Beton.open(path)


def test_the_description_of_another_file_is_an_error(path: Path, betons: Path) -> None:
    description_path(path).write_bytes((betons / "train.beton.json").read_bytes())
    with pytest.raises(UserError, match=r"is not the one that val\.beton\.json describes"):
        Beton.open(path)


def test_a_wrong_digest_of_the_images_is_found_by_verify(path: Path) -> None:
    place = description_path(path)
    place.write_text(changed(payload_sha256="0" * 64)(json.loads(place.read_text())))
    Beton.open(path)
    with pytest.raises(UserError, match="its images are not the bytes that were written"):
        verify(path)


@pytest.mark.parametrize("classes", ["5", "null", "[1, 2, 3]", '"abc"', '{"a": 1, "b": 2, "c": 3}', "[" * 10000])
def test_classes_that_are_no_names_are_an_error(classes: str, path: Path) -> None:
    place = description_path(path)
    place.write_text(changed(classes="here")(json.loads(place.read_text())).replace('"here"', classes))
    with pytest.raises(UserError, match=re.escape(str(place))):
        Beton.open(path)
