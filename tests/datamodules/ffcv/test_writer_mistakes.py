"""Images that cannot be read, and files that are there already, are told, and nothing is half left behind."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from contents import CLASSES, MIXED, PIXELS, epoch, noise_files, pixels_of, stored
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
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "a.beton"


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def spoil(files: Files) -> None:
    """One is cut, one is empty, one is no image, one is missing."""
    cut, empty, text, missing = (Path(files[index][0]) for index in BAD)
    cut.write_bytes(cut.read_bytes()[:200])
    empty.write_bytes(b"")
    text.write_text("a photograph of a cat")
    missing.unlink()


def good(files: Files) -> Files:
    return [file for index, file in enumerate(files) if index not in BAD]


def test_images_that_cannot_be_read_are_all_named_and_nothing_is_left_behind(
    files: Files, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(files)
    with pytest.raises(UserError, match=r"4 of 12 images cannot be read, see above.*--skip-bad"):
        write(path, files, CLASSES, MIXED, num_workers=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if "is not a readable image" in line]
    assert [line.split(" is not")[0] for line in lines] == [files[index][0] for index in BAD]
    assert names(path) == []


def test_images_that_cannot_be_read_are_left_out_on_request_and_told(
    files: Files, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(files)
    write(path, files, CLASSES, PIXELS, skip_bad=True, num_workers=2)
    assert "8 images, 4 left out" in capsys.readouterr().err
    verify(path)
    assert equal_pixels(path, good(files))
    assert epoch(Beton.open(path))[1].tolist() == [label for _, label in good(files)]
    description = json.loads(beton.description_path(path).read_text())
    assert description["left_out"] == [files[index][0] for index in BAD]
    assert sum(description["images_per_class"].values()) == COUNT - len(BAD)
    # But for what is told of those left out it is the file without them.
    other = path.with_name("b.beton")
    write(other, good(files), CLASSES, PIXELS)
    assert other.read_bytes() == path.read_bytes()


def equal_pixels(path: Path, files: Files) -> bool:
    return all(np.array_equal(*images) for images in zip(stored(path), pixels_of(files), strict=True))


@pytest.mark.parametrize("skip_bad", [False, True])
def test_no_readable_image_at_all_is_an_error(skip_bad: bool, files: Files, path: Path) -> None:
    for name, _ in files:
        Path(name).write_bytes(b"")
    with pytest.raises(UserError, match="none of the 12 images can be read"):
        write(path, files, CLASSES, MIXED, skip_bad=skip_bad)
    assert names(path) == []


def test_an_image_that_does_not_fit_into_a_page_is_left_out_and_one_that_just_does_is_kept(
    path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writer, "PAGE", 1 << 13)
    for index, size in enumerate([(2730, 1), (2731, 1), (1, 2730), (47, 59)]):
        Image.new("RGB", size, (1, 2, index)).save(files[index][0])
    write(path, files[:4], CLASSES, PIXELS, skip_bad=True)
    assert Beton.open(path).sizes.tolist() == [8190, 8190]
    error = capsys.readouterr().err
    assert f"{files[1][0]} takes 8193 bytes as it is to be stored, more than 8192" in error
    assert f"{files[3][0]} takes 8319 bytes" in error
    assert equal_pixels(path, files[0:4:2])


def test_a_file_of_the_same_images_and_settings_is_kept_as_it_is(
    files: Files, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, files, CLASSES, MIXED)
    before = state(path)
    monkeypatch.setattr(writer, "read_image", None)
    write(path, files, CLASSES, MIXED, num_workers=3)
    assert "a.beton is there already, of the same images and settings" in capsys.readouterr().err
    assert state(path) == before


def state(path: Path) -> list[tuple[str, int, bytes]]:
    return [(file.name, file.stat().st_mtime_ns, file.read_bytes()) for file in sorted(path.parent.iterdir())]


@pytest.mark.parametrize(
    ("count", "classes", "storage"),
    [
        (COUNT, CLASSES, Storage(None, None, 91, 0.5)),
        (COUNT, CLASSES, Storage(None, None, 90, 0.4)),
        (COUNT, CLASSES, Storage(500, None, 90, 0.5)),
        (COUNT, CLASSES, Storage(None, 20, 90, 0.5)),
        (COUNT, ["cat", "dog", "yak"], MIXED),
        (COUNT, [*CLASSES, "yak"], MIXED),
        (COUNT - 1, CLASSES, MIXED),
    ],
    ids=["quality", "raw share", "longer side", "shorter side", "names", "classes", "images"],
)
def test_a_file_of_other_images_or_settings_is_an_error_and_left_alone(
    count: int, classes: list[str], storage: Storage, files: Files, path: Path
) -> None:
    write(path, files, CLASSES, MIXED)
    before = state(path)
    with pytest.raises(UserError, match=r"a\.beton is there already, of other images or settings: remove it"):
        write(path, files[:count], classes, storage)
    assert state(path) == before


def test_a_file_that_nothing_describes_is_an_error_and_left_alone(files: Files, path: Path) -> None:
    write(path, files, CLASSES, MIXED)
    beton.description_path(path).unlink()
    before = state(path)
    with pytest.raises(UserError, match=r"a\.beton is there already"):
        write(path, files, CLASSES, MIXED)
    assert state(path) == before


def test_a_file_that_is_there_and_damaged_is_an_error_and_left_alone(files: Files, path: Path) -> None:
    write(path, files, CLASSES, MIXED)
    path.write_bytes(path.read_bytes()[:-1])
    before = state(path)
    with pytest.raises(UserError, match=r"a\.beton is damaged"):
        write(path, files, CLASSES, MIXED)
    assert state(path) == before


def test_a_second_writer_of_a_file_is_an_error_and_the_first_goes_on(
    files: Files, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = Event(), Event()

    def read(name: str) -> Image.Image:
        begun.set()
        assert go_on.wait(60)
        return read_image(name)

    monkeypatch.setattr(writer, "read_image", read)
    first = Thread(target=write, args=(path, files, CLASSES, PIXELS))
    first.start()
    assert begun.wait(60)
    for storage in (PIXELS, MIXED):
        with pytest.raises(UserError, match=r"a\.beton\.partial is being written by another process"):
            write(path, files, CLASSES, storage)
    go_on.set()
    first.join()
    verify(path)
    assert equal_pixels(path, files)
    assert names(path) == ["a.beton", "a.beton.json"]


@pytest.mark.parametrize(
    ("size", "storage"),
    [((1200, 1), Storage(500, None, 90, 1.0)), ((66_000, 1), PIXELS), ((1, 900), Storage(None, 256, 90, 0.0))],
    ids=["no height", "too wide", "too high"],
)
def test_a_very_long_image_is_one_that_can_be_left_out(
    size: tuple[int, int], storage: Storage, files: Files, path: Path
) -> None:
    Image.new("RGB", size).save(files[1][0])
    write(path, files, CLASSES, storage, skip_bad=True)
    assert json.loads(beton.description_path(path).read_text())["left_out"] == [files[1][0]]


def test_a_file_of_as_many_other_images_is_an_error(files: Files, path: Path) -> None:
    write(path, files[:4], CLASSES, MIXED)
    with pytest.raises(UserError, match=r"a\.beton is there already"):
        write(path, files[4:8], CLASSES, MIXED)


def test_a_file_that_lacks_images_is_not_one_of_them_all(files: Files, path: Path) -> None:
    whole = Path(files[3][0]).read_bytes()
    Path(files[3][0]).write_bytes(b"")
    write(path, files, CLASSES, MIXED, skip_bad=True)
    Path(files[3][0]).write_bytes(whole)  # mended
    with pytest.raises(UserError, match=r"a\.beton is there already"):
        write(path, files, CLASSES, MIXED)


def test_a_writer_that_begins_as_another_does_takes_nothing_from_it(
    files: Files, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, exists = read_image, Path.exists

    def begin_another(name: str) -> Image.Image:
        if name == files[-1][0]:
            # It has seen no file, and comes to open it only now that most of it is written.
            monkeypatch.setattr(Path, "exists", lambda place: not place.name.endswith(".partial") and exists(place))
            with pytest.raises(UserError, match="is being written by another process"):
                write(path, files, CLASSES, PIXELS)
        return read(name)

    monkeypatch.setattr(writer, "PAGE", 1 << 14)  # what is written is in the file by then, not in a buffer
    monkeypatch.setattr(writer, "read_image", begin_another)
    write(path, files, CLASSES, PIXELS)
    verify(path)


def test_a_writer_that_finishes_while_another_begins_is_not_undone(
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


@pytest.mark.parametrize("directory", ["[bold]", ":cat:", "[/bold]"])
def test_a_path_is_told_as_it_is(
    directory: str, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / directory / "a.beton"
    path.parent.mkdir(parents=True)
    write(path, files, CLASSES, MIXED)
    write(path, files, CLASSES, MIXED)
    error = capsys.readouterr().err
    assert f"{path}: 12 images" in error
    assert f"{path} is there already" in error
