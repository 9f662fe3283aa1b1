"""A full disk is one clear error, and the unfinished file is removed."""

from __future__ import annotations

import os
import resource
from errno import ENOSPC
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import pytest
from apart import run_apart
from contents import CLASSES, MIXED, PIXELS, noise_files, photographs_in

from lightning_subnets import UserError
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.writer import write
from lightning_subnets.datamodules.image_files import Files

pytestmark = pytest.mark.skipif(not installed(), reason="FFCV is not installed: data/install_ffcv.sh")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "a.beton"


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def write_in_little_room(path: Path, files: Files, room: int, told: Connection) -> None:
    os.dup2(
        os.open(os.devnull, os.O_WRONLY), 2
    )  # pytest's standard error is a file, and the limit would count for it too
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        write(path, files, CLASSES, PIXELS)
    except UserError as error:
        told.send(str(error))


@pytest.mark.parametrize(
    "room",
    # No byte; among the images; in the allocation table, which is in a buffer until the end.
    [0, pytest.param(9_000_000, marks=pytest.mark.thorough), -1],
)
def test_a_full_disk_is_an_error_that_leaves_nothing(room: int, photographs: Path, path: Path) -> None:
    files = photographs_in(photographs / "train")
    whole = path.parent.with_name("whole.beton")
    write(whole, files, CLASSES, PIXELS)
    length = whole.stat().st_size
    receive, send = Pipe(duplex=False)
    with receive, send:
        assert run_apart(write_in_little_room, path, files, room % length, send) == 0
        assert receive.poll()
        assert "a.beton cannot be written: File too large" in receive.recv()
        assert names(path) == []
        assert run_apart(write_in_little_room, path, files, length, send) == 0
        assert not receive.poll()
    assert path.read_bytes() == whole.read_bytes()


def full(*_: object) -> NoReturn:
    raise OSError(ENOSPC, "No space left on device")


_replace = Path.replace


def all_but_the_file(path: Path, target: Path) -> Path:
    return full() if target.suffix == ".beton" else _replace(path, target)


@pytest.mark.parametrize(
    ("of", "step", "error"),
    [
        (os, "fsync", full),
        (Path, "replace", full),
        (Path, "replace", all_but_the_file),
    ],
)
def test_an_error_of_the_disk_at_any_step_leaves_nothing(
    of: object, step: str, error: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = noise_files(path.parent.with_name("images"), 4)
    monkeypatch.setattr(of, step, error)
    with pytest.raises(UserError, match=r"a\.beton cannot be written: No space left on device"):
        write(path, files, CLASSES, MIXED)
    assert names(path) == []


@pytest.mark.parametrize("place", ["missing/a.beton", "images/000.png/a.beton"])
def test_a_place_that_cannot_be_written_to_is_an_error(place: str, tmp_path: Path) -> None:
    files = noise_files(tmp_path / "images", 4)
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / place, files, CLASSES, MIXED)
