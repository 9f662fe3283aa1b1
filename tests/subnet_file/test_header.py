"""What a file says of its network is looked at, each value, before it is used; and is said again as it was."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from small_subnets import content, saved

import lightning_subnets as ls
from lightning_subnets.subnet_file.header import VERSION, Header, Json

LAYER = "features.0"


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Json:
    return content(saved(tmp_path_factory.mktemp("header") / "a.subnet"))[0]


def read(header: Json) -> Header:
    return Header.from_json({"version": VERSION} | header)


def test_a_header_is_read_as_it_was_written(header: Json) -> None:
    found = json.loads(read(header).to_json(sha256="of the file"))
    assert found.pop("sha256") == "of the file"
    assert found.pop("version") == VERSION == 1
    assert found == header
    assert dataclasses.asdict(read(found | {"config": {"any": [1, {"thing": None}]}}))["config"]["any"][1]


def test_what_may_be_left_out_is_empty_then(header: Json) -> None:
    least = {key: header[key] for key in ("network", "weights", "method", "layers", "digests", "density")}
    found = read(least)
    assert (found.classes, found.accuracy, found.preprocessing, found.config, found.versions) == ([], {}, {}, {}, {})
    assert found.total == 3653


@pytest.mark.parametrize("version", [None, 0, 2, "1", [], 10**4000, "x" * 10**6])
def test_another_version_of_the_format_is_refused(version: Any, header: Json) -> None:
    with pytest.raises(
        ls.UserError, match=r"of version .* of the format, and this .* reads 1: install a newer one"
    ) as e:
        Header.from_json(header | {"version": version})
    assert len(str(e.value)) < 200


def test_no_version_is_refused(header: Json) -> None:
    with pytest.raises(ls.UserError, match="of version None"):
        Header.from_json(dict(header))


def at(header: Json, place: str, value: Any) -> Json:
    """A copy with another value at a place, ``layers/features.0/kept``."""
    found = copy.deepcopy(header)
    *path, last = place.split("/")
    inner = found
    for key in path:
        inner = inner[key]
    inner[last] = value
    return found


WRONG = [
    ("network", [], "its header.network is [] and should be of type Network"),
    ("network/builder", None, "its header.network.builder is None and should be of type str"),
    ("network/arguments", "x", "its header.network.arguments is 'x' and should be of type dict"),
    ("network/dtype", "int8", "'int8' and should be of type 'float32' or 'float16' or 'bfloat16' or 'float64'"),
    ("network/dtype", ["float32"], "should be of type 'float32' or"),
    ("network/more", 1, "its header.network has 'more', which means nothing here"),
    ("weights/distribution", "cauchy", "of the distribution 'cauchy', which is unknown"),
    ("weights/distribution", "x" * 10**6, "of the distribution 'xxxx"),
    ("weights/distribution", 1, "its header.weights.distribution is 1 and should be of type str"),
    ("weights/seed", 1.0, "its header.weights.seed is 1.0 and should be of type int"),
    ("weights/seed", True, "its header.weights.seed is True"),
    ("weights/density", 0, "a density of 0.0, outside (0, 1]"),
    ("weights/density", -0.5, "a density of -0.5"),
    ("weights/density", 1.5, "a density of 1.5"),
    ("weights/density", 10**400, "its header.weights.density is 1000"),
    ("weights/density", float("inf"), "its header.weights.density is inf"),
    ("weights/density", False, "its header.weights.density is False"),
    ("method/name", {}, "its header.method.name is {} and should be of type str"),
    ("layers", {LAYER: 3}, "its header.layers.'features.0' is 3 and should be of type Layer"),
    (f"layers/{LAYER}/shape", [], "a layer of shape [] cannot keep"),
    (f"layers/{LAYER}/shape", [54], "a layer of shape [54] cannot keep"),
    (f"layers/{LAYER}/shape", [6, 1, 3], "a layer of shape [6, 1, 3] cannot keep"),
    (f"layers/{LAYER}/shape", [6, 1, 3, 0], "a layer of shape [6, 1, 3, 0] cannot keep"),
    (f"layers/{LAYER}/shape", [-6, -1, 3, 3], "a layer of shape [-6, -1, 3, 3] cannot keep"),
    (f"layers/{LAYER}/shape", [2**31, 1], "a layer of shape [2147483648, 1] cannot keep"),
    (f"layers/{LAYER}/shape", [2.0, 1], "shape is 2.0 and should be of type int"),
    (f"layers/{LAYER}/shape", [True, True], "shape is True and should be of type int"),
    (f"layers/{LAYER}/kept", 55, "cannot keep 55 weights"),
    (f"layers/{LAYER}/kept", -1, "cannot keep -1 weights"),
    (f"layers/{LAYER}/kept", 10**4000, "cannot keep 1000"),
    (f"layers/{LAYER}/weights", "pickled", "'pickled' and should be of type 'drawn' or 'signs' or 'values'"),
    (f"layers/{LAYER}/weights", "signs", "a layer's weights are signs without a magnitude"),
    (f"layers/{LAYER}/of", "code", "'code' and should be of type 'weight' or 'sign'"),
    (f"layers/{LAYER}/gain", "2", "gain is '2' and should be of type float"),
    ("digests", {"weights": ""}, "its header.digests has no masks"),
    ("density", None, "its header.density is None and should be of type float"),
    ("classes", "cat", "its header.classes is 'cat' and should be of type list"),
    ("classes", ["cat", 1], "its header.classes is 1 and should be of type str"),
    ("accuracy", {"a\n\x1b[2J": "x"}, r"its header.accuracy.'a\n\x1b[2J' is 'x' and should be of type float"),
    ("accuracy", {"x" * 10**6: "x" * 10**6}, "and should be of type float"),
    ("more\n", 1, r"its header has 'more\n', which means nothing here"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value", "message"), WRONG, ids=[f"{place}-{i}" for i, (place, *_) in enumerate(WRONG)]
)
def test_a_wrong_value_is_one_clear_error(place: str, value: Any, message: str, header: Json) -> None:
    with pytest.raises(ls.UserError) as error:
        read(at(header, place, value))
    assert message in str(error.value)
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()


@pytest.mark.parametrize("key", ["network", "weights", "method", "layers", "digests", "density"])
def test_a_missing_value_is_named(key: str, header: Json) -> None:
    with pytest.raises(ls.UserError, match=f"its header has no {key}"):
        read({name: value for name, value in header.items() if name != key})


@pytest.mark.parametrize(
    "changed",
    [
        lambda header: at(header, f"layers/{LAYER}/shape", [2**31 - 1] * 300_000),
        lambda header: at(header, "layers", {str(index): {"shape": [1, 1], "kept": 1} for index in range(50_000)}),
        lambda header: at(header, "classes", ["x"] * 10**6),
        lambda header: at(header, "accuracy", [[]] * 10**6),
    ],
    ids=["a product of many sizes", "many layers", "many classes", "a long list"],
)  # fmt: skip
def test_a_long_header_is_gone_through_in_a_moment(changed: Callable[[Json], Json], header: Json) -> None:
    long, begin = changed(header), time.process_time()
    with suppress(ls.UserError):
        read(long)
    assert time.process_time() - begin < 4


def test_a_value_in_many_brackets_is_one_error(header: Json) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for place in ("accuracy", "network/builder", "classes"):
        with pytest.raises(ls.UserError, match=r"is .*\[\.\.\.\].* and should be of type"):
            read(at(header, place, deep) if place != "accuracy" else {**header, "accuracy": deep})
    while deep:  # or taking it apart would recurse
        deep = deep.pop()


def test_there_is_nothing_of_this_machine_in_a_header(tmp_path: Path) -> None:
    text = json.dumps(content(saved(tmp_path / "a.subnet"))[0])
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
