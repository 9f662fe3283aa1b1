"""Faults while a ``.beton`` file is streamed: damaged images, workers that fail, a missing FFCV."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contents import allocations, images, stream

from lightning_subnets import UserError
from lightning_subnets.datamodules import ImageNet
from lightning_subnets.datamodules.ffcv.beton import JPEG, Beton, description_path
from lightning_subnets.datamodules.ffcv.loader import FFCVLoader, imported

DAMAGED = 8  # of class 1, in the third batch
LIMIT = 20.0  # seconds, for work of milliseconds that might hang


def outcome_in_time(function: Callable[[], object]) -> object:
    """Return what a function returns or raises; fail if it hangs."""
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.exception(LIMIT) or outcome.result()


def evaluated(path: Path, *, num_workers: int = 2, count: int | None = None) -> FFCVLoader:
    return stream(Beton.open(path), augment=False, num_workers=num_workers, count=count)


@pytest.fixture
def path(betons: Path, tmp_path: Path) -> Path:
    """Return a copy of the training file, to damage, without a description, which would show the damage."""
    assert Beton.open(betons / "train.beton").modes[DAMAGED] == JPEG
    return Path(shutil.copy(betons / "train.beton", tmp_path))


Damage = Callable[[Any, Any, Any], None]


def overwrite(share: float, value: int | None) -> Damage:
    """Overwrite the stored bytes from this share on, with a value or with noise."""

    def damage(stored: Any, image: Any, allocation: Any) -> None:
        part = stored[int(share * len(stored)) :]
        part[:] = np.random.default_rng(0).integers(0, 256, len(part)) if value is None else value

    return damage


def resize(size: Callable[[int], int]) -> Damage:
    def damage(stored: Any, image: Any, allocation: Any) -> None:
        allocation["size"] = size(int(allocation["size"][0]))

    return damage


def mark(height: int, width: int) -> Damage:
    """Add to the height and width in the record of the image."""

    def damage(stored: Any, image: Any, allocation: Any) -> None:
        image["height"] = int(image["height"][0]) + height
        image["width"] = int(image["width"][0]) + width

    return damage


DAMAGES: dict[str, Damage] = {
    "noise": overwrite(0, None),
    "a hole": overwrite(0.5, 0),
    "cut short": resize(lambda size: size // 2),
    "cut to a byte": resize(lambda _: 1),
    "without its end": resize(lambda size: size - 2),
    "marked as higher": mark(1, 0),
    "marked as narrower": mark(0, -8),
}


def do(damage: Damage, path: Path) -> None:
    content = bytearray(path.read_bytes())
    (row,) = np.flatnonzero(allocations(content)["sample"] == DAMAGED)
    allocation, image = allocations(content)[row : row + 1], images(content)[DAMAGED : DAMAGED + 1]
    start, size = int(allocation["pointer"][0]), int(allocation["size"][0])
    damage(np.frombuffer(content, np.uint8, size, start), image, allocation)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_image_is_an_error_that_names_file_image_and_class_when_its_turn_comes(
    damage: Damage, path: Path, betons: Path
) -> None:
    do(damage, path)
    good = list(evaluated(betons / "train.beton"))
    loader = evaluated(path)
    for _ in range(2):
        iterator = iter(loader)
        for expected, _ in good[: DAMAGED // 4]:
            assert torch.equal(next(iterator)[0], expected)
        error = outcome_in_time(lambda iterator=iterator: next(iterator))  # type: ignore[misc]
        assert isinstance(error, UserError)
        assert str(error).startswith(f"{path}: image {DAMAGED}, of class 1, is damaged. Write the file again")
        assert list(iterator) == []
    # The decoders, which all loaders of the process share, still work.
    for batches in (list(evaluated(betons / "train.beton")), [*evaluated(path, count=DAMAGED)]):
        for (seen, _), (expected, _) in zip(batches, good, strict=len(batches) == len(good)):
            assert torch.equal(seen, expected)


def test_the_first_of_several_damaged_images_is_named_and_no_worker_hangs(path: Path, betons: Path) -> None:
    table = Beton.open(path)
    content = bytearray(path.read_bytes())
    for pointer, size, mode in zip(table.pointers, table.sizes, table.modes, strict=True):
        if mode == JPEG:
            content[pointer : pointer + size] = bytes(int(size))
    path.write_bytes(content)
    error = outcome_in_time(lambda: list(evaluated(path, num_workers=5)))
    assert isinstance(error, UserError)
    assert "image 0, of class 0, is damaged" in str(error)
    shutil.copy(description_path(betons / "train.beton"), path.parent)
    with pytest.raises(UserError, match=f"image 0, of class {re.escape(Beton.open(path).classes[0])}, is damaged"):
        list(evaluated(path, num_workers=5))


def test_a_missing_library_is_an_error_that_says_how_to_install_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    fresh = imported.__wrapped__
    monkeypatch.setitem(sys.modules, "ffcv.libffcv", None)
    with pytest.raises(UserError, match=r"FFCV cannot be imported .*data/install_ffcv.sh.*--data.loader=folder"):
        fresh("ffcv.libffcv")

    def unlinked(name: str) -> None:
        torch.set_num_threads(1)
        raise OSError("libturbojpeg.so.0: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", unlinked)
    with pytest.raises(UserError, match=r"FFCV cannot be imported \(libturbojpeg.so.0: cannot open.*install_ffcv.sh"):
        fresh("ffcv.libffcv")
    assert torch.get_num_threads() == threads


def test_ffcv_needs_a_worker(betons: Path) -> None:
    with pytest.raises(UserError, match="num_workers = 0: the ffcv loader needs at least 1"):
        ImageNet(str(betons), num_workers=0)
