"""A damaged file is one clear error that names it: at once, and however large its numbers are."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contents import CLASSES, MIXED, allocations, epoch, header, images, noise_files, samples

from lightning_subnets import UserError
from lightning_subnets.datamodules.ffcv import beton, writer
from lightning_subnets.datamodules.ffcv.beton import Beton, description_path
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.writer import write

Part = Callable[[bytearray], Any]
Damage = Callable[[bytearray], object]

COUNT, PAGE = 12, 1 << 14
JPEG, RAW, LAST = 4, 5, COUNT - 1  # one image of each kind from the middle of the file, and the last
HUGE = 2**64 - 1
LENGTH = "bytes long, which is not what its header tells"
FIELDS = "does not hold an image and a label for each sample"


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
    """A file to damage, with nothing beside it."""
    path = tmp_path / "a.beton"
    path.write_bytes(whole.read_bytes())
    return path


def error_of(path: Path) -> str:
    """The one line that a file is refused with, in less than a second and in little memory."""
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(UserError) as caught:
        Beton.open(path)
    assert time.perf_counter() - began < 1
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


def more(tail: bytes) -> Damage:
    return lambda content: content.extend(tail)


def put(part: Part, name: str, value: int, index: int = 0) -> Damage:
    def damage(content: bytearray) -> None:
        part(content)[name][index] = value

    return damage


def add_to_size(index: int, difference: int) -> Damage:
    def damage(content: bytearray) -> None:
        sizes = allocations(content)["size"]
        sizes[index] = int(sizes[index]) + difference

    return damage


def move(index: int, pointer: int | Callable[[Any], Any]) -> Damage:
    """Sample and allocation table agree on where the image is, so that it takes another check to find it."""

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


def swap_fields(content: bytearray) -> None:
    fields = np.frombuffer(content, beton.FIELD, 2, beton.HEADER.itemsize)
    fields[:] = fields[::-1].copy()


DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (cut(0), "it is 0 bytes long, less than its header"),
    "shorter than its header": (cut(beton.HEAD_SIZE - 1), "it is 2105 bytes long, less than its header"),
    "nothing but a header": (cut(beton.HEAD_SIZE), f"it is 2106 {LENGTH}"),
    "cut in the metadata": (cut(beton.HEAD_SIZE + 100), LENGTH),
    "cut before the images": (cut(PAGE), LENGTH),
    "cut in the images": (cut(PAGE + 5000), LENGTH),
    "cut before the allocation table": (cut(-COUNT * beton.ALLOCATION.itemsize), LENGTH),
    "an allocation less": (cut(-beton.ALLOCATION.itemsize), LENGTH),
    "a byte less": (cut(-1), LENGTH),
    "a byte more": (more(b"\0"), LENGTH),
    "an allocation more": (more(bytes(beton.ALLOCATION.itemsize)), LENGTH),
    "twice": (lambda content: content.extend(content), LENGTH),
    "all zero": (zero(lambda content: np.frombuffer(content, np.uint8)), "(its is 0)"),
    "zeroed header": (zero(header), "(its is 0)"),
    "version 3": (put(header, "version", 3), "not of FFCV's format, version 2 (its is 3)"),
    "version 65535": (put(header, "version", 65535), "(its is 65535)"),
    "no field": (put(header, "num_fields", 0), FIELDS),
    "3 fields": (put(header, "num_fields", 3), FIELDS),
    "65535 fields": (put(header, "num_fields", 65535), FIELDS),
    "a field of another name": (rename(b"\1label", b"\1babel"), FIELDS),
    "a field of a longer name": (rename(b"\2image\0", b"\2images"), FIELDS),
    "a field of another type": (rename(b"\1label", b"\0label"), FIELDS),
    "fields in another order": (swap_fields, FIELDS),
    "never finished": (put(header, "allocations", 0), LENGTH),
    "no sample": (put(header, "num_samples", 0), "it holds no sample"),
    "a sample more": (put(header, "num_samples", COUNT + 1), LENGTH),
    "2**63 samples": (put(header, "num_samples", 2**63), LENGTH),
    "2**64 - 1 samples": (put(header, "num_samples", HUGE), LENGTH),
    # Of 24 bytes each, and their allocations too: in 64 bits the right number.
    "samples that overflow": (put(header, "num_samples", 2**61 + COUNT), LENGTH),
    "allocations at 2**63": (put(header, "allocations", 2**63), LENGTH),
    "allocations at 2**64 - 1": (put(header, "allocations", HUGE), LENGTH),
    "allocations in the header": (put(header, "allocations", 24), LENGTH),
    "no page": (put(header, "page_size", 0), "its pages are of 0 bytes"),
    "pages of 3 bytes": (put(header, "page_size", 3), "its pages are of 3 bytes"),
    "pages of 2**32 - 1 bytes": (put(header, "page_size", 2**32 - 1), "its pages are of 4294967295 bytes"),
    "zeroed metadata": (zero(samples), "place images differently"),
    "zeroed allocation table": (zero(allocations), "does not have each sample once"),
    "a sample twice": (put(allocations, "sample", 4, 3), "does not have each sample once"),
    "sample 2**64 - 1": (put(allocations, "sample", HUGE, LAST), "does not have each sample once"),
    "label -1": (put(samples, "label", -1, JPEG), "a label in it is outside [0, 1048576)"),
    "label -2**63": (put(samples, "label", -(2**63), JPEG), "a label in it is outside"),
    "label 2**20": (put(samples, "label", 2**20, JPEG), "a label in it is outside"),
    "label 2**63 - 1": (put(samples, "label", 2**63 - 1, JPEG), "a label in it is outside"),
    "two places": (put(images, "pointer", HUGE, RAW), "place images differently"),
    "pointer 0": (move(RAW, 0), "lies outside"),
    "pointer 2**63": (move(RAW, 2**63), "lies outside"),
    "pointer 2**64 - 1": (move(RAW, HUGE), "lies outside"),
    "pointer into the metadata": (move(0, beton.HEAD_SIZE + COUNT * 24 - 1), "lies outside"),
    "pointer into the allocation table": (move(LAST, lambda table: end_of(table) + 1), "lies outside"),
    "pointer to the end": (move(LAST, end_of), "images in it overlap"),
    "pointer a byte too low": (move(RAW, lambda table: table["pointer"][RAW] - 1), "images in it overlap"),
    "twice the same place": (move(JPEG, lambda table: table["pointer"][RAW]), "images in it overlap"),
    "size 2**63": (put(allocations, "size", 2**63, LAST), "images in it overlap"),
    "size 2**64 - 1": (put(allocations, "size", HUGE, RAW), "images in it overlap"),
    "a byte into the next": (add_to_size(JPEG, 1), "images in it overlap"),
    "a byte into the allocation table": (add_to_size(LAST, 1), "images in it overlap"),
    "no bytes": (put(allocations, "size", 0, JPEG), "has no size"),
    "height 0": (put(images, "height", 0, JPEG), "has no size"),
    "width 0": (put(images, "width", 0, RAW), "has no size"),
    "mode 2": (put(images, "mode", 2, JPEG), "stored in an unknown way"),
    "mode 255": (put(images, "mode", 255, RAW), "stored in an unknown way"),
    "a JPEG told to be raw": (put(images, "mode", beton.RAW, JPEG), "not as many bytes as its height and width tell"),
    "raw and a byte less": (add_to_size(RAW, -1), "not as many bytes"),
    "raw and 1 high": (put(images, "height", 1, RAW), "not as many bytes"),
    "raw and 65535 high": (put(images, "height", 65535, RAW), "not as many bytes"),
    "raw and 65535 wide": (put(images, "width", 65535, RAW), "not as many bytes"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("described", [False, True], ids=["alone", "described"])
def test_damage_is_one_error_that_names_the_file_and_what_is_wrong(
    damage: Damage, message: str, described: bool, path: Path, whole: Path
) -> None:
    content = bytearray(whole.read_bytes())
    damage(content)
    assert content != whole.read_bytes()
    path.write_bytes(content)
    if described:
        description_path(path).write_bytes(description_path(whole).read_bytes())
    assert message in error_of(path)


def test_a_missing_file_and_a_directory_in_its_place_are_errors(tmp_path: Path) -> None:
    assert "No such file" in error_of(tmp_path / "a.beton")
    (tmp_path / "b.beton").mkdir()
    assert "Is a directory" in error_of(tmp_path / "b.beton")


def test_a_photograph_in_the_place_of_a_file_is_an_error(photographs: Path) -> None:
    assert "is not of FFCV's format" in error_of(next(photographs.glob("val/*/0.*")))


@pytest.mark.parametrize("side", [1, 65535])
@pytest.mark.parametrize("name", ["height", "width"])
def test_a_jpeg_of_another_size_than_told_is_an_error_where_it_is_decoded(name: str, side: int, path: Path) -> None:
    content = bytearray(path.read_bytes())
    put(images, name, side, JPEG)(content)
    path.write_bytes(content)
    table = Beton.open(path)
    with pytest.raises(UserError, match=r"a\.beton: image 4, of class 0, is damaged"):
        epoch(table)


def test_a_jpeg_that_ends_in_the_middle_is_an_error_where_it_is_decoded(path: Path) -> None:
    content, table = bytearray(path.read_bytes()), Beton.open(path)
    start, end = table.pointers[JPEG], table.pointers[JPEG] + table.sizes[JPEG]
    content[(start + end) // 2 : end] = bytes(end - (start + end) // 2)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.beton: image 4, of class 0, is damaged"):
        epoch(Beton.open(path))


def flip(place: int) -> Damage:
    return lambda content: content.__setitem__(place, content[place] ^ 1)


def reverse_allocations(content: bytearray) -> None:
    allocations(content)[:] = allocations(content)[::-1].copy()


@pytest.mark.parametrize(
    "damage",
    [
        put(header, "page_size", PAGE // 2),
        flip(beton.HEADER.itemsize + 100),  # in the arguments of a field, which has none
        flip(beton.HEAD_SIZE + 14),  # between a sample's image and its label
        put(samples, "label", 2, JPEG),
        reverse_allocations,
    ],
    ids=["page size", "arguments", "padding", "label", "order"],
)
def test_by_its_description_a_change_is_found_that_makes_another_whole_file(
    damage: Damage, path: Path, whole: Path
) -> None:
    content = bytearray(whole.read_bytes())
    damage(content)
    assert content != whole.read_bytes()
    path.write_bytes(content)
    assert len(Beton.open(path)) == COUNT
    description_path(path).write_bytes(description_path(whole).read_bytes())
    assert "its table of contents is not the one that a.beton.json describes" in error_of(path)
