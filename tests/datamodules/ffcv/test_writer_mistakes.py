"""Unreadable images, existing files and a full disk are errors, and no incomplete file is left behind."""

from __future__ import annotations

import fcntl
import json
import os
import re
from errno import ENOSPC, ENOSYS
from pathlib import Path
from threading import Event, Thread
from typing import Any, NoReturn
from unittest.mock import Mock

import numpy as np
import pytest
from contents import CLASSES, MIXED, PIXELS, joined, noise_files, pixels_of, stored, stream
from PIL import Image

from lightning_subnets import UserError
from lightning_subnets.datamodules.ffcv import beton, writer
from lightning_subnets.datamodules.ffcv.beton import Beton, verify
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.writer import Storage, write
from lightning_subnets.datamodules.image_files import Files, read_image

pytestmark = pytest.mark.skipif(not installed(), reason="FFCV is not installed: data/install_ffcv.sh")

COUNT, BAD = 12, (0, 5, 6, 11)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return noise_files(tmp_path / "images", COUNT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "[bold]:cat:").mkdir()  # rich would interpret these characters
    return tmp_path / "[bold]:cat:" / "a.beton"


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def equal_pixels(path: Path, files: Files) -> bool:
    return all(np.array_equal(*images) for images in zip(stored(path), pixels_of(files), strict=True))


def test_unreadable_images_are_all_named_and_can_be_left_out(
    files: Files, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut, empty, text, missing = (Path(files[index][0]) for index in BAD)
    cut.write_bytes(cut.read_bytes()[:200])
    empty.write_bytes(b"")
    text.write_text("a photograph of a cat")
    missing.unlink()
    with pytest.raises(UserError, match=r"4 of 12 images cannot be read, see above.*--skip_bad"):
        write(path, files, CLASSES, MIXED, num_workers=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if "is not a readable image" in line]
    assert [line.split(" is not")[0] for line in lines] == [files[index][0] for index in BAD]
    assert names(path) == []
    write(path, files, CLASSES, PIXELS, skip_bad=True, num_workers=2)
    assert f"{path}: 8 images, 4 left out" in capsys.readouterr().err
    verify(path)
    good = [file for index, file in enumerate(files) if index not in BAD]
    assert equal_pixels(path, good)
    assert joined(stream(Beton.open(path), augment=False))[1].tolist() == [label for _, label in good]
    description = json.loads(beton.description_path(path).read_text())
    assert description["left_out"] == [files[index][0] for index in BAD]
    assert sum(description["images_per_class"].values()) == COUNT - len(BAD)
    with pytest.raises(UserError, match=r"a\.beton exists without 4 images"):
        write(path, files, CLASSES, PIXELS)
    # Apart from its description it is the file of the readable images.
    other = path.with_name("b.beton")
    write(other, good, CLASSES, PIXELS)
    assert other.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("skip_bad", [False, True])
def test_no_readable_image_at_all_is_an_error(skip_bad: bool, files: Files, path: Path) -> None:
    for name, _ in files:
        Path(name).write_bytes(b"")
    with pytest.raises(UserError, match="none of the 12 images can be read"):
        write(path, files, CLASSES, MIXED, skip_bad=skip_bad)
    assert names(path) == []


def test_an_image_that_does_not_fit_into_a_page_can_be_left_out(
    path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writer, "PAGE", 1 << 13)
    for index, size in enumerate([(2730, 1), (2731, 1), (1, 2730), (47, 59)]):
        Image.new("RGB", size, (1, 2, index)).save(files[index][0])
    write(path, files[:4], CLASSES, PIXELS, skip_bad=True)
    assert Beton.open(path).sizes.tolist() == [8190, 8190]
    error = capsys.readouterr().err
    raw = "bytes, more than the 8192 of a page: lower --longer_side, store JPEG with --raw_share=0, or remove it"
    assert f"{files[1][0]} takes 8193 {raw}" in error
    assert f"{files[3][0]} takes 8319 {raw}" in error
    assert equal_pixels(path, files[0:4:2])
    monkeypatch.setattr(writer, "PAGE", 100)
    with pytest.raises(UserError, match="none of the 1 images can be read"):
        write(path.with_name("b.beton"), files[:1], CLASSES, Storage(None, None, 90, 0.0))
    error = capsys.readouterr().err
    assert re.search(rf"{files[0][0]} takes \d+ .* of a page: lower --longer_side or --quality, or remove it", error)


@pytest.mark.parametrize(
    ("size", "storage"),
    [((1200, 1), Storage(500, None, 90, 1.0)), ((66_000, 1), PIXELS), ((1, 900), Storage(None, 256, 90, 0.0))],
    ids=["no height", "too wide", "too high"],
)
def test_a_very_long_image_can_be_left_out(size: tuple[int, int], storage: Storage, files: Files, path: Path) -> None:
    Image.new("RGB", size).save(files[1][0])
    write(path, files[:3], CLASSES, storage, skip_bad=True)
    assert json.loads(beton.description_path(path).read_text())["left_out"] == [files[1][0]]


def state(path: Path) -> list[tuple[str, int, bytes]]:
    return [(file.name, file.stat().st_mtime_ns, file.read_bytes()) for file in sorted(path.parent.iterdir())]


def test_an_existing_file_is_kept_if_it_is_the_same_and_otherwise_refused(
    files: Files, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, files[:6], CLASSES, MIXED)
    before = state(path)
    monkeypatch.setattr(writer, "read_image", None)
    write(path, files[:6], CLASSES, MIXED, num_workers=3)
    assert f"{path} exists with images of the same names and sizes, and the same settings" in capsys.readouterr().err
    for other in (
        (files[:6], CLASSES, Storage(None, None, 91, 0.5)),
        (files[:6], CLASSES, Storage(None, None, 90, 0.4)),
        (files[:6], CLASSES, Storage(500, None, 90, 0.5)),
        (files[:6], CLASSES, Storage(None, 20, 90, 0.5)),
        (files[:6], ["cat", "dog", "yak"], MIXED),
        (files[:5], CLASSES, MIXED),
        (files[6:], CLASSES, MIXED),
    ):
        with pytest.raises(UserError, match=r"a\.beton exists with images of other names or sizes, or other settings"):
            write(path, *other)
    assert state(path) == before
    image = Path(files[0][0])
    content = image.read_bytes()
    image.write_bytes(content + b"edited")
    with pytest.raises(UserError, match=r"a\.beton exists with images of other names or sizes"):
        write(path, files[:6], CLASSES, MIXED)
    image.write_bytes(content)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"a\.beton is damaged"):
        write(path, files[:6], CLASSES, MIXED)
    beton.description_path(path).unlink()
    with pytest.raises(UserError, match=r"a\.beton exists with images of other"):
        write(path, files[:6], CLASSES, MIXED)
    assert state(path)[0][2] == before[0][2][:-1]


def test_a_second_writer_of_a_file_is_an_error_and_the_first_continues(
    files: Files, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, resume = Event(), Event()

    def read(name: str) -> Image.Image:
        started.set()
        assert resume.wait(60)
        return read_image(name)

    monkeypatch.setattr(writer, "read_image", read)
    first = Thread(target=write, args=(path, files, CLASSES, PIXELS))
    first.start()
    assert started.wait(60)
    for storage in (PIXELS, MIXED):
        with pytest.raises(UserError, match=r"a\.beton\.partial is being written by another process"):
            write(path, files, CLASSES, storage)
    resume.set()
    first.join()
    verify(path)
    assert equal_pixels(path, files)
    assert names(path) == ["a.beton", "a.beton.json"]


def test_a_writer_that_finishes_while_another_starts_is_not_undone(
    files: Files, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def finish_first(*arguments: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        write(path, files, CLASSES, PIXELS)
        lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    with pytest.raises(UserError):
        write(path, files, CLASSES, MIXED)
    verify(path)
    assert equal_pixels(path, files)


def test_a_file_system_without_locks_can_be_written(files: Files, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(ENOSYS, "Function not implemented")))
    write(path, files, CLASSES, PIXELS)
    assert equal_pixels(path, files)
    assert names(path) == ["a.beton", "a.beton.json"]


def full(*_: object) -> NoReturn:
    raise OSError(ENOSPC, "No space left on device")


_replace = Path.replace


def all_but_the_file(path: Path, target: Path) -> Path:
    return full() if target.suffix == ".beton" else _replace(path, target)


@pytest.mark.parametrize(
    ("of", "step", "error"),
    [
        (beton, "head", full),
        (os, "fsync", full),
        (Path, "replace", full),
        (Path, "replace", all_but_the_file),
    ],
)
def test_an_error_of_the_disk_at_any_step_leaves_nothing(
    of: object, step: str, error: Any, files: Files, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of, step, error)
    with pytest.raises(UserError, match=r"a\.beton cannot be written: No space left on device"):
        write(path, files, CLASSES, MIXED)
    assert names(path) == []


@pytest.mark.parametrize("place", ["missing/a.beton", "images/000.png/a.beton"])
def test_a_place_that_cannot_be_written_to_is_an_error(place: str, files: Files, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / place, files, CLASSES, MIXED)
