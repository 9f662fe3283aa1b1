"""Interrupted epochs and forks leave nothing behind."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_subnets.datamodules import ImageNet
from lightning_subnets.datamodules.ffcv import loader as ffcv_loader
from lightning_subnets.datamodules.ffcv.loader import FFCVLoader

LIMIT = 20.0  # seconds, for work of milliseconds that might hang


def imagenet(betons: Path | str, **options: Any) -> ImageNet:
    data = ImageNet(str(betons), **{"image_size": 64, "batch_size": 4, "num_workers": 3, **options})
    data.setup("fit")
    return data


class Recorder:
    """A pool that records its work."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool, self.futures = pool, list[Future[None]]()

    def submit(self, *work: Any) -> Future[None]:
        self.futures.append(self.pool.submit(*work))
        return self.futures[-1]


def test_an_interrupted_epoch_leaves_nothing_running_and_nothing_waiting(
    betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = imagenet(betons, num_workers=1).train_dataloader()
    assert isinstance(loader, FFCVLoader)
    decode, decoding, opened = loader._decode, threading.Event(), threading.Event()
    decoded = 0

    def decode_one_batch_and_then_wait(*arguments: Any) -> int:
        nonlocal decoded
        decoded += 1
        if decoded > 1:
            decoding.set()
            assert opened.wait(LIMIT)
        return decode(*arguments)

    with ThreadPoolExecutor(1) as pool:
        recorder = Recorder(pool)
        monkeypatch.setattr(ffcv_loader, "_threads", lambda count, process: recorder)
        monkeypatch.setattr(loader, "_decode", decode_one_batch_and_then_wait)
        for _ in loader:
            assert decoding.wait(LIMIT)  # the second batch is being decoded, and will be for a while
            threading.Timer(0.1, opened.set).start()
            break
        assert [future.done() for future in recorder.futures] == [True] * (1 + ffcv_loader.BATCHES_AHEAD)
        # The first two batches were started; the others never will be.
        assert [future.cancelled() for future in recorder.futures] == [False, False, True, True]
        assert decoded == 2


def test_the_error_of_a_worker_arrives_after_the_other_workers_have_finished_the_batch(
    betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = imagenet(betons, num_workers=2, batch_size=21).train_dataloader()
    assert isinstance(loader, FFCVLoader)
    decode, failed, never = loader._decode, threading.Event(), threading.Event()

    def fail_or_take_a_while(*arguments: Any) -> int:
        if not failed.is_set():
            failed.set()
            raise ValueError("from a worker")
        never.wait(0.2)
        return decode(*arguments)

    with ThreadPoolExecutor(2) as pool:
        recorder = Recorder(pool)
        monkeypatch.setattr(ffcv_loader, "_threads", lambda count, process: recorder)
        monkeypatch.setattr(loader, "_decode", fail_or_take_a_while)
        with pytest.raises(ValueError, match="from a worker"):
            next(iter(loader))
        assert [future.done() for future in recorder.futures] == [True, True]


def digest(data: ImageNet) -> str:
    # Avoid torch's own threads, which a fork does not have.
    return hashlib.sha256(b"".join(images.numpy().tobytes() for images, _ in data.train_dataloader())).hexdigest()


def threads_and_bytes() -> tuple[int, int]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/task")), pages * os.sysconf("SC_PAGE_SIZE")


def forked(function: Callable[[], object]) -> int | None:
    """Return 0 or 1 if a function is true or false in a fork of this process, or None if it hangs."""
    process = os.fork()
    if not process:
        os._exit(0 if function() else 1)
    killer = threading.Timer(LIMIT, os.kill, (process, 9))
    killer.start()
    _, status = os.waitpid(process, 0)
    killer.cancel()
    return None if status == 9 else os.waitstatus_to_exitcode(status)


def campaign(betons: str, epochs: int, forks: int) -> dict[str, Any]:
    """Return the threads, the memory and the forks' results of a process with many epochs of each kind."""
    warnings.simplefilter("ignore")
    seen: dict[str, Any] = {"imported": [name for name in ("ffcv", "numba", "cv2") if name in sys.modules]}
    torch.set_num_threads(3)
    data = imagenet(betons)
    seen["torch threads"] = [torch.get_num_threads()]
    expected = digest(data)
    seen["torch threads"].append(torch.get_num_threads())

    def every_kind_of_epoch(number: int) -> None:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        for _ in islice(loader, number % 7):  # a whole epoch of 6 batches, or a part of it
            pass
        list(data.val_dataloader())
        for _ in data.val_dataloader():
            break

    for number in range(20):
        every_kind_of_epoch(number)
    threads, size = threads_and_bytes()
    for number in range(epochs):
        every_kind_of_epoch(number)
    threads_after, size_after = threads_and_bytes()
    seen |= {"threads": [threads, threads_after], "growth": size_after - size}

    seen["forks"] = [forked(lambda: digest(data) == expected) for _ in range(forks)]
    for _ in range(forks):
        epoch = iter(data.train_dataloader())
        next(epoch)  # three more batches are being decoded
        seen["forks"].append(forked(lambda: digest(data) == expected))
        assert len(list(epoch)) == 4
    seen["undisturbed"] = digest(data) == expected
    return seen


@pytest.mark.thorough
@pytest.mark.parametrize(("epochs", "forks"), [(50, 3), pytest.param(1000, 100, marks=pytest.mark.long)])
def test_whole_and_interrupted_epochs_and_forks_leave_nothing_behind(epochs: int, forks: int, betons: Path) -> None:
    command = [sys.executable, "-W", "ignore", __file__, str(betons), str(epochs), str(forks)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert result.returncode == 0, result.stderr
    seen: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert seen["imported"] == []  # by importing the package
    assert seen["torch threads"] == [3, 3]
    assert seen["threads"][0] == seen["threads"][1]
    # The images of 50 such epochs are 17 MB and those of 1000 are 340 MB. A process that keeps none of them
    # grew by 0.2 MB at most.
    assert seen["growth"] < 5e6
    assert seen["forks"] == [0] * 2 * forks
    assert seen["undisturbed"]


if __name__ == "__main__":
    print(json.dumps(campaign(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
