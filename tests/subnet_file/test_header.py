"""Every value of a header is checked before it is used, and is written again unchanged."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from small_subnets import content, saved

import lightning_subnets as ls
from lightning_subnets.subnet_file.header import VERSION, Header, Json

REQUIRED = ("network", "weights", "method", "layers", "digests", "density")


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Json:
    return content(saved(tmp_path_factory.mktemp("header") / "a.subnet"))[0]


def read(header: Json) -> Header:
    return Header.from_json({"version": VERSION} | header)


def at(header: Json, place: str, value: Any) -> Json:
    """Return a copy with another value at a place such as ``layers/features.0.weight/kept``."""
    found = copy.deepcopy(header)
    *path, last = place.split("/")
    inner = found
    for key in path:
        inner = inner[key]
    inner[last] = value
    return found


def test_a_file_of_a_commit_before_the_first_release_is_not_answered_with_an_upgrade(header: Json) -> None:
    with pytest.raises(ls.UserError, match="version 1 is of a commit before the first release: export the run again"):
        Header.from_json(header | {"version": 1})


@pytest.mark.parametrize("version", range(2, VERSION + 1))
def test_older_versions_are_read(version: int, header: Json) -> None:
    assert Header.from_json(header | {"version": version}) == read(header)


def test_a_header_is_read_as_it_was_written(header: Json) -> None:
    found = json.loads(read(header).to_json(sha256="of the file"))
    assert found.pop("sha256") == "of the file"
    assert found.pop("version") == VERSION
    assert found == header
    config = {"any": [1, {"thing": None}]}
    assert read(header | {"config": config}).config == config


def test_optional_values_are_empty_by_default_and_required_ones_are_named(header: Json) -> None:
    least = {key: header[key] for key in REQUIRED}
    found = read(least)
    assert (found.classes, found.accuracy, found.preprocessing, found.config, found.versions) == ([], {}, {}, {}, {})
    assert found.total == 3653
    for key in REQUIRED:
        with pytest.raises(ls.UserError, match=f"header has no '{key}'"):
            read({name: value for name, value in least.items() if name != key})


@pytest.mark.parametrize("version", [None, 0, 5, "1", True, 2.0, [], 10**4000, "x" * 10**6, "missing"])
def test_another_version_of_the_format_is_refused(version: Any, header: Json) -> None:
    changed = dict(header) if version == "missing" else header | {"version": version}
    with pytest.raises(ls.UserError, match=r"format version .* is unknown, expected 2 to 4: upgrade") as error:
        Header.from_json(changed)
    assert len(str(error.value)) < 200


FIRST = "layers/features.0.weight/"
WRONG = [
    ("network", [], "header.network is [], expected dict"),
    ("network/builder", None, "header.network.builder is None, expected str"),
    ("network/dtype", "int8", "is 'int8', expected 'float32' or 'float16' or 'bfloat16' or 'float64'"),
    ("network/dtype", ["float32"], "expected 'float32' or"),
    ("network/more", 1, "header.network has an unknown key 'more'"),
    ("weights/distribution", "x" * 10**6, "distribution 'xxxx"),
    ("weights/seed", 1.0, "header.weights.seed is 1.0, expected int"),
    ("weights/seed", True, "header.weights.seed is True"),
    ("weights/density", 0, "a density of 0.0, outside (0, 1]"),
    ("weights/density", 10**400, "header.weights.density is 1000"),
    ("weights/density", float("nan"), "header.weights.density is nan"),
    ("weights/density", False, "header.weights.density is False"),
    ("layers", {}, "the header lists no layers"),
    (FIRST + "shape", [], "a weight of shape [] cannot keep"),
    (FIRST + "shape", [6, 1, 3, 0], "a weight of shape [6, 1, 3, 0] cannot keep"),
    (FIRST + "shape", [2**31, 1], "a weight of shape [2147483648, 1] cannot keep"),
    (FIRST + "shape", [True, True], "shape is True, expected int"),
    (FIRST + "kept", 55, "cannot keep 55 numbers"),
    (FIRST + "kept", -1, "cannot keep -1 numbers"),
    (FIRST + "kept", 10**4000, "cannot keep 1000"),
    (FIRST + "weights", "pickled", "'pickled', expected 'drawn' or 'signs' or 'values'"),
    (FIRST + "weights", "signs", "without their magnitude"),
    (FIRST + "kept", {f"{i}": [{"a": ["b" * 30] * 9}] * 9 for i in range(9)}, "kept is {'0': [{'a': ["),
    (FIRST + "gain", "2", "gain is '2', expected float"),
    ("digests", {"weights": ""}, "header.digests has no 'masks'"),
    ("classes", "cat", "header.classes is 'cat', expected list"),
    ("classes", ["cat", 1], "header.classes is 1, expected str"),
    ("accuracy", {"a\n\x1b[2J": "x"}, r"header.accuracy.'a\n\x1b[2J' is 'x', expected float"),
    ("preprocessing", {"input_shape": [3, 1, 2], "permutation": [0]}, "permutation is [0], expected each pixel once"),
    ("preprocessing", {"permutation": 7}, "preprocessing.permutation is 7, expected each pixel once"),
    ("preprocessing", {"permutation": None}, "preprocessing.permutation is None, expected each pixel once"),
    ("preprocessing", {"permutation": [0, True]}, "permutation is [0, True], expected each pixel once"),
    ("preprocessing", {"permutation": [1, 1]}, "permutation is [1, 1], expected each pixel once"),
    ("preprocessing", {"permutation": [0, 2] + [1] * 10**6}, "permutation is [0, 2, 1, 1, 1, 1, ...], expected each"),
    ("more\n", 1, r"header has an unknown key 'more\n'"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "message"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_value_is_one_clear_error(place: str, value: Any, message: str, header: Json) -> None:
    with pytest.raises(ls.UserError) as error:
        read(at(header, place, value))
    assert message in str(error.value)
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (FIRST + "shape", [2**31 - 1] * 300_000),
        ("layers", {str(index): {"shape": [1, 1], "kept": 1} for index in range(50_000)}),
        ("accuracy", [[]] * 10**6),
    ],
    ids=["a product of many sizes", "many layers", "a long list"],
)
def test_a_long_header_takes_little_time(place: str, value: Any, header: Json) -> None:
    long, begin = at(header, place, value), time.process_time()
    with suppress(ls.UserError):
        read(long)
    assert time.process_time() - begin < 4


def test_many_tasks_take_time_in_proportion(header: Json) -> None:
    name, layer = next(iter(header["layers"].items()))
    own = {"masks": "", "layers": [{"kept": 0, "code": ""}]}
    tasks = [{"name": str(number), **own} for number in range(20_000)]
    begin = time.process_time()
    assert len(read(header | {"layers": {name: layer}, "tasks": tasks}).tasks) == 20_000
    assert time.process_time() - begin < 4


def test_what_a_task_states_takes_the_place_of_what_the_file_states(header: Json) -> None:
    own = {"name": "a", "masks": "", "layers": [{"kept": 0, "code": ""}], "preprocessing": {"mean": [0.5]}}
    first, shared = dict([next(iter(header["layers"].items()))]), {"mean": [0.1], "std": [0.2]}
    found = read(header | {"layers": first, "preprocessing": shared, "tasks": [own]}).of_task("a")
    assert found.preprocessing == {"mean": [0.5], "std": [0.2]}


def test_each_order_of_pixels_is_checked_once(header: Json) -> None:
    reads: list[object] = []

    class Order(list[int]):
        def __iter__(self) -> Iterator[int]:
            reads.append(self)
            return super().__iter__()

    first = dict([next(iter(header["layers"].items()))])

    def read_tasks(tasks: int, shared: Json, own: Json) -> int:
        reads.clear()
        each = {"masks": "", "layers": [{"kept": 0, "code": ""}], "preprocessing": own}
        named = [each | {"name": str(number)} for number in range(tasks)]
        read(header | {"layers": first, "preprocessing": shared, "tasks": named})
        return len(reads)

    order = {"permutation": Order(range(9))}
    once = read_tasks(1, order, {})
    assert (read_tasks(50, order, {}), read_tasks(50, {}, order)) == (once, 50 * once)
    with pytest.raises(ls.UserError, match=r"permutation is \[1, 1\], expected each pixel once"):
        read_tasks(1, {}, {"permutation": [1, 1]})


def test_a_value_in_many_brackets_is_one_error(header: Json) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for changed in (
        header | {"accuracy": deep},
        header | {"classes": deep},
        header | {"network": header["network"] | {"builder": deep}},
    ):
        with pytest.raises(ls.UserError, match=r"is .*\[\.\.\.\].*, expected"):
            read(changed)
    while deep:  # otherwise the destructor would recurse
        deep = deep.pop()


def test_a_header_says_nothing_about_this_machine(tmp_path: Path) -> None:
    text = json.dumps(content(saved(tmp_path / "a.subnet"))[0])
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
