"""A loader that streams images from a ``.beton`` file through FFCV's decoder, by threads.

FFCV's ``Loader`` is not used, because it refills buffers that may still be in use, leaks a thread for each interrupted
epoch, hangs when its thread has died, ignores errors of the JPEG decoder, and draws augmentations that no seed repeats.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_subnets.datamodules.crops import Integers, central_crops, random_crops
from lightning_subnets.datamodules.ffcv.beton import JPEG, Beton
from lightning_subnets.datamodules.loader import Batch, EpochLoader, EpochSampler
from lightning_subnets.errors import UserError

BATCHES_AHEAD = 3


class FFCVLoader(EpochLoader):
    """Batches of photographs from a ``.beton`` file; no two batches share memory.

    All loaders of a process share their threads, which are never stopped, because FFCV never frees the decoder that it
    keeps for each thread.

    Args:
        size: the height and width of the images in an epoch, in pixels.
        augment: cut a random part, mirrored or not, instead of the centre.
        num_workers: threads that decode, at least 1.
    """

    def __init__(
        self,
        beton: Beton,
        sampler: EpochSampler,
        batch_size: int,
        size: Callable[[int], int],
        augment: bool,
        num_workers: int,
    ) -> None:
        super().__init__(sampler, batch_size)
        self.beton, self.size, self.augment, self.num_workers = beton, size, augment, num_workers
        self._decode = _decoder()
        self._file = np.memmap(beton.path, np.uint8, "r").view(np.ndarray)

    def read_batches(self, keys: list[Tensor]) -> Generator[Batch]:
        started: deque[tuple[Batch, list[Future[None]]]] = deque()
        try:
            for part in keys:
                started.append(self._start(part.numpy()))
                if len(started) > BATCHES_AHEAD:
                    yield _finished(*started.popleft())
            while started:
                yield _finished(*started.popleft())
        finally:
            futures = [future for _, futures in started for future in futures]
            for future in futures:
                future.cancel()
            wait(futures)

    def _start(self, keys: Integers) -> tuple[Batch, list[Future[None]]]:
        """Return a batch whose images are still being decoded, and the futures to wait for."""
        epochs, samples = np.divmod(keys, len(self.beton))
        size = self.size(int(epochs[0]))
        # Pinned memory comes from torch's cache, which reuses it only after the copies to a GPU are complete.
        images = torch.empty((len(keys), size, size, 3), dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        share = -(-len(keys) // self.num_workers)
        pool = _threads(self.num_workers, os.getpid())
        futures = [
            pool.submit(self._fill, images.numpy()[start : start + share], keys[start : start + share])
            for start in range(0, len(keys), share)
        ]
        return (images.permute(0, 3, 1, 2), torch.from_numpy(self.beton.labels[samples])), futures

    def _fill(self, images: NDArray[np.uint8], keys: Integers) -> None:
        beton, samples = self.beton, keys % len(self.beton)
        heights, widths = beton.heights[samples], beton.widths[samples]
        if self.augment:
            crops = random_crops(self.sampler.seed, keys, heights, widths)
        else:
            crops = central_crops(heights, widths, images.shape[1])
        places = beton.pointers[samples], beton.sizes[samples], beton.modes[samples]
        damaged = self._decode(images, self._file, *places, heights, widths, crops)
        if damaged >= 0:
            sample = samples[damaged]
            raise UserError(
                f"{beton.path}: image {sample}, of class {beton.classes[beton.labels[sample]]}, is damaged. "
                "Write the file again, see data/README.md"
            )


def installed() -> bool:
    """Return whether FFCV is installed; a directory of that name does not count."""
    found = importlib.util.find_spec("ffcv")
    return found is not None and found.origin is not None


def _finished(batch: Batch, futures: list[Future[None]]) -> Batch:
    wait(futures)  # for all of them, also if one has failed
    for future in futures:
        future.result()
    return batch


@cache
def _threads(count: int, process: int) -> ThreadPoolExecutor:
    """Return a pool of threads; its key contains the process, because a fork loses the threads of its parent."""
    return ThreadPoolExecutor(count, thread_name_prefix="ffcv")


@cache
def imported(name: str) -> ModuleType:
    """Import a module of FFCV, and restore torch's number of threads, which importing FFCV sets to 1."""
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about features that Python will remove
            return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise UserError(
            f"FFCV cannot be imported ({error}): install it with data/install_ffcv.sh, or read the images from "
            "their folder with --data.loader=folder"
        ) from error
    finally:
        torch.set_num_threads(threads)


@cache
def _decoder() -> Callable[..., int]:
    """Compile the loop over a batch, which takes about a second."""
    library = imported("ffcv.libffcv")
    from numba import njit

    compiled = njit(nogil=True, error_model="numpy")
    imdecode, resize_crop = compiled(library.imdecode), compiled(library.resize_crop)
    jpeg_shape = compiled(_jpeg_shape)

    def decode(
        images: Any, file: Any, pointers: Any, sizes: Any, modes: Any, heights: Any, widths: Any, crops: Any
    ) -> int:
        """Fill in the images, and return the index of the first damaged one, or -1."""
        for index in range(len(images)):
            height, width = heights[index], widths[index]
            stored = file[pointers[index] : pointers[index] + sizes[index]]
            if modes[index] == JPEG:
                # FFCV writes as many pixels as the JPEG has, whatever the size of the buffer.
                if jpeg_shape(stored) != (height, width):
                    return index
                pixels = np.empty(height * width * 3, np.uint8)
                if imdecode(stored, pixels, height, width, height, width, 0, 0, 1, 1, False, False):
                    return index
            else:
                pixels = stored
            top, left, crop_height, crop_width, mirrored = crops[index]
            whole, image = pixels.reshape(height, width, 3), images[index]
            resize_crop(whole, top, top + crop_height, left, left + crop_width, image)
            if mirrored:
                image[:] = image[:, ::-1].copy()
        return -1

    loop: Callable[..., int] = compiled(decode)
    return loop


def _jpeg_shape(stored: NDArray[np.uint8]) -> tuple[int, int]:
    """Return height and width from a JPEG's frame header, or (0, 0) if it has none."""
    position = 2
    while position + 9 <= len(stored) and stored[position] == 0xFF:
        marker = stored[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = stored[position + 5 : position + 7], stored[position + 7 : position + 9]
            return height[0] * 256 + height[1], width[0] * 256 + width[1]
        position += 2 + stored[position + 2] * 256 + stored[position + 3]
    return 0, 0
