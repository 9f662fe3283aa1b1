"""What goes wrong while a ``.beton`` file is streamed: damaged images, workers that fail, an FFCV that is not there."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contents import allocations, images

from lightning_subnets import UserError
from lightning_subnets.datamodules import ImageNet
from lightning_subnets.datamodules.ffcv import loader as ffcv_loader
from lightning_subnets.datamodules.ffcv.beton import JPEG, Beton, description_path
from lightning_subnets.datamodules.ffcv.loader import FFCVLoader, imported
from lightning_subnets.datamodules.sampler import EpochSampler

COUNT, DAMAGED = 21, 8  # of class 1, in the third batch
LIMIT = 20.0  # seconds, for what should take milliseconds and might take for ever


def stream(path: Path, *, augment: bool = False, num_workers: int = 2, samples: range = range(COUNT)) -> FFCVLoader:
    table = Beton.open(path)
    sampler = EpochSampler(torch.tensor(samples), size=COUNT, shuffle=augment, seed=0)
    return FFCVLoader(table, sampler, 4, lambda _: 32, augment, num_workers)


def outcome_in_time(function: Callable[[], object]) -> object:
    """What a function returns or raises; a failure if it hangs."""
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.exception(LIMIT) or outcome.result()


@pytest.fixture
def path(betons: Path, tmp_path: Path) -> Path:
    """A copy of the training file, to damage; without a description, which would tell that it was."""
    assert Beton.open(betons / "train.beton").modes[DAMAGED] == JPEG
    return Path(shutil.copy(betons / "train.beton", tmp_path))


def noise(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    stored[:] = np.random.default_rng(0).integers(0, 256, len(stored))


def noise_after_the_header(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    stored[len(stored) // 2 :] = np.random.default_rng(0).integers(0, 256, len(stored) - len(stored) // 2)


def zeros(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    stored[:] = 0


def a_hole(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    stored[len(stored) // 2 :] = 0


def cut_short(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    allocation["size"] //= 2


def cut_to_the_header(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    allocation["size"] = 300


def cut_to_a_byte(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    allocation["size"] = 1


def without_its_end(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    allocation["size"] -= 2


def told_to_be_higher(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    image["height"] += 1


def told_to_be_lower(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    image["height"] -= 1


def told_to_be_narrower(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    image["width"] -= 8


def told_to_be_a_pixel(stored: np.ndarray[Any, Any], image: np.void, allocation: np.void) -> None:
    image["height"] = image["width"] = 1


DAMAGES = [
    *(noise, noise_after_the_header, zeros, a_hole, cut_short, cut_to_the_header, cut_to_a_byte, without_its_end),
    *(told_to_be_higher, told_to_be_lower, told_to_be_narrower, told_to_be_a_pixel),
]
Damage = Callable[[Any, Any, Any], None]


def do(damage: Damage, path: Path) -> None:
    content = bytearray(path.read_bytes())
    (row,) = np.flatnonzero(allocations(content)["sample"] == DAMAGED)
    allocation, image = allocations(content)[row : row + 1], images(content)[DAMAGED : DAMAGED + 1]
    start, size = int(allocation["pointer"][0]), int(allocation["size"][0])
    damage(np.frombuffer(content, np.uint8, size, start), image, allocation)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_image_is_an_error_that_names_file_image_and_class_when_its_turn_comes(
    damage: Damage, path: Path, betons: Path
) -> None:
    do(damage, path)
    good = list(stream(betons / "train.beton"))
    loader = stream(path)
    for _ in range(2):
        iterator = iter(loader)
        for expected, _ in good[: DAMAGED // 4]:
            assert torch.equal(next(iterator)[0], expected)
        error = outcome_in_time(lambda iterator=iterator: next(iterator))  # type: ignore[misc]
        assert isinstance(error, UserError)
        assert str(error).startswith(f"{path}: image {DAMAGED}, of class 1, is damaged. Write the file again")
        assert list(iterator) == []
    # The decoders, which every loader of the process uses, are none the worse for it.
    for batches in (list(stream(betons / "train.beton")), [*stream(path, samples=range(DAMAGED))]):
        for (seen, _), (expected, _) in zip(batches, good, strict=len(batches) == len(good)):
            assert torch.equal(seen, expected)


def test_rot_within_a_described_file_is_named_by_the_class(path: Path, betons: Path) -> None:
    shutil.copy(description_path(betons / "train.beton"), path.parent)
    do(noise, path)
    name = re.escape(Beton.open(path).classes[1])
    with pytest.raises(UserError, match=f"train.beton: image {DAMAGED}, of class {name}, is damaged"):
        list(stream(path, augment=True))


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_of_several_damaged_images_one_is_named_and_no_worker_is_left_waiting(num_workers: int, path: Path) -> None:
    table = Beton.open(path)
    content = bytearray(path.read_bytes())
    for pointer, size, mode in zip(table.pointers, table.sizes, table.modes, strict=True):
        if mode == JPEG:
            content[pointer : pointer + size] = bytes(int(size))
    path.write_bytes(content)
    error = outcome_in_time(lambda: list(stream(path, num_workers=num_workers)))
    assert isinstance(error, UserError)
    assert "image 0, of class 0, is damaged" in str(error)


@pytest.mark.parametrize("num_workers", [1, 2, 5])
@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, KeyboardInterrupt, SystemExit])
def test_what_a_worker_raises_reaches_who_asks_for_the_batch(
    kind: type[BaseException], num_workers: int, betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = stream(betons / "train.beton", num_workers=num_workers)

    def fail(*_: object) -> int:
        raise kind("from a worker")

    with monkeypatch.context() as patch:
        patch.setattr(loader, "_decode", fail)
        for _ in range(3):
            error = outcome_in_time(lambda: next(iter(loader)))
            assert isinstance(error, kind)
            assert str(error) == "from a worker"
    assert len(list(loader)) == 6


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


def test_an_interrupt_while_ffcv_is_imported_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def interrupted_in_a_callback(name: str) -> None:
        with contextlib.suppress(KeyboardInterrupt):  # as compiled code does, which has nobody to raise it to
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(importlib, "import_module", interrupted_in_a_callback)
    with pytest.raises(KeyboardInterrupt):
        imported.__wrapped__("ffcv.libffcv")
    assert signal.getsignal(signal.SIGINT) is handler


def test_ffcv_may_be_imported_by_any_thread() -> None:
    assert outcome_in_time(lambda: imported.__wrapped__("ffcv.libffcv")) is imported("ffcv.libffcv")


def test_a_loader_without_ffcv_fails_before_anything_is_read(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Beton.open(betons / "train.beton")
    monkeypatch.setattr(ffcv_loader, "imported", imported.__wrapped__)
    monkeypatch.setattr(ffcv_loader, "_decoder", ffcv_loader._decoder.__wrapped__)
    monkeypatch.setitem(sys.modules, "ffcv.libffcv", None)
    with pytest.raises(UserError, match=r"data/install_ffcv.sh"):
        FFCVLoader(
            dataclasses.replace(table, path=Path("nowhere")),
            EpochSampler(torch.arange(COUNT), size=COUNT, shuffle=False, seed=0),
            *(4, lambda _: 32, False, 2),
        )


@pytest.mark.parametrize("num_workers", [0, -1])
def test_no_workers_are_too_few(num_workers: int, betons: Path) -> None:
    with pytest.raises(UserError, match=f"num_workers = {num_workers}: the ffcv loader takes at least 1"):
        ImageNet(str(betons), num_workers=num_workers)
