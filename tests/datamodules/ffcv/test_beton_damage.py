"""A damaged file is refused at once with one error that names it, however large its numbers are."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contents import CLASSES, MIXED, allocations, header, images, noise_files, samples

from lightning_subnets import UserError
from lightning_subnets.datamodules.ffcv import beton, writer
from lightning_subnets.datamodules.ffcv.beton import Beton, description_path
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.writer import write

Part = Callable[[bytearray], Any]
Damage = Callable[[bytearray], object]

COUNT, PAGE = 12, 1 << 14
JPEG, RAW, LAST = 4, 5, COUNT - 1  # an image of each kind in the middle of the file, and the last image
HUGE = 2**64 - 1
LENGTH = "bytes long, which contradicts its header"
FIELDS = "has other fields than an RGBImageField named image and an IntField named label"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not installed():
        pytest.skip("FFCV is not installed: data/install_ffcv.sh")
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PAGE", PAGE)
        write(root / "a.beton", noise_files(root, COUNT), CLASSES, MIXED)
    assert Beton.open(root / "a.beton").modes[[JPEG, RAW]].tolist() == [beton.JPEG, beton.RAW]
    return root / "a.beton"


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """Return a file to damage, without a description."""
    path = tmp_path / "a.beton"
    path.write_bytes(whole.read_bytes())
    return path


def error_of(path: Path) -> str:
    """Return the one line of the error for a file, raised with little memory."""
    tracemalloc.start()
    with pytest.raises(UserError) as caught:
        Beton.open(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def cut(end: int) -> Damage:
    def damage(content: bytearray) -> None:
        del content[end:]

    return damage


def put(part: Part, name: str, value: int, index: int = 0) -> Damage:
    def damage(content: bytearray) -> None:
        part(content)[name][index] = value

    return damage


def move(index: int, pointer: int | Callable[[Any], Any]) -> Damage:
    """Move an image in both the sample and the allocation table, so that another check has to find it."""

    def damage(content: bytearray) -> None:
        table = allocations(content)
        table["pointer"][index] = pointer if isinstance(pointer, int) else pointer(table)
        images(content)["pointer"][index] = table["pointer"][index]

    return damage


def end_of(table: Any) -> Any:
    return table["pointer"][LAST] + table["size"][LAST]


def zero(part: Part) -> Damage:
    return lambda content: part(content).view(np.uint8).fill(0)


def rename(old: bytes, new: bytes) -> Damage:
    def damage(content: bytearray) -> None:
        assert content[: beton.HEAD_SIZE].count(old) == 1
        content[: beton.HEAD_SIZE] = content[: beton.HEAD_SIZE].replace(old, new)

    return damage


DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (cut(0), "it is 0 bytes long, less than its header"),
    "a byte less": (cut(-1), LENGTH),
    "all zero": (zero(lambda content: np.frombuffer(content, np.uint8)), "(found 0)"),
    "version 3": (put(header, "version", 3), "not in FFCV's format, version 2 (found 3)"),
    "a field of another name": (rename(b"\1label", b"\1babel"), FIELDS),
    "never finished": (put(header, "allocations", 0), LENGTH),
    "no sample": (put(header, "num_samples", 0), "it holds no sample"),
    # At 24 bytes each, in 64-bit arithmetic, the sizes would be right.
    "samples that overflow": (put(header, "num_samples", 2**61 + COUNT), LENGTH),
    "allocations at 2**64 - 1": (put(header, "allocations", HUGE), LENGTH),
    "no page": (put(header, "page_size", 0), "its pages are of 0 bytes"),
    "zeroed allocation table": (zero(allocations), "does not have each sample once"),
    "label -1": (put(samples, "label", -1, JPEG), "a label in it is outside [0, 1048576)"),
    "label 2**20": (put(samples, "label", 2**20, JPEG), "a label in it is outside"),
    "two places": (put(images, "pointer", HUGE, RAW), "place images differently"),
    "pointer 2**64 - 1": (move(RAW, HUGE), "lies outside"),
    "pointer into the metadata": (move(0, beton.HEAD_SIZE + COUNT * 24 - 1), "lies outside"),
    "pointer into the allocation table": (move(LAST, lambda table: end_of(table) + 1), "lies outside"),
    "pointer to the end": (move(LAST, end_of), "images in it overlap"),
    "twice the same place": (move(JPEG, lambda table: table["pointer"][RAW]), "images in it overlap"),
    "size 2**64 - 1": (put(allocations, "size", HUGE, RAW), "images in it overlap"),
    "no bytes": (put(allocations, "size", 0, JPEG), "has no size"),
    "mode 2": (put(images, "mode", 2, JPEG), "stored in an unknown way"),
    "a JPEG marked as raw": (put(images, "mode", beton.RAW, JPEG), "has not 3 bytes a pixel"),
    "raw and 65535 wide": (put(images, "width", 65535, RAW), "has not 3 bytes a pixel"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_one_error_that_names_the_file_and_the_damage(
    damage: Damage, message: str, path: Path, whole: Path
) -> None:
    content = bytearray(whole.read_bytes())
    damage(content)
    assert content != whole.read_bytes()
    path.write_bytes(content)
    assert message in error_of(path)
    description_path(path).write_bytes(description_path(whole).read_bytes())
    assert message in error_of(path)


def test_a_missing_file_a_directory_and_a_photograph_are_errors(photographs: Path, tmp_path: Path) -> None:
    assert "No such file" in error_of(tmp_path / "a.beton")
    (tmp_path / "b.beton").mkdir()
    assert "Is a directory" in error_of(tmp_path / "b.beton")
    assert "is not in FFCV's format" in error_of(next(photographs.glob("val/*/0.*")))
