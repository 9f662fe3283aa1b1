"""A writer of ``.beton`` files, FFCV's format. The bytes of a file do not depend on the number of threads."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torchvision.transforms.v2 import functional

from lightning_subnets import atomic_file
from lightning_subnets.datamodules.ffcv import beton
from lightning_subnets.datamodules.ffcv.loader import imported
from lightning_subnets.datamodules.image_files import Files, read_image
from lightning_subnets.errors import UserError

PAGE = 1 << 23  # FFCV's default; an image lies within one page
LONGEST = 65_500  # pixels of a JPEG's side
_Encoded = tuple[Any, NDArray[np.uint8]]


@dataclass(frozen=True)
class Storage:
    """How the images of a file are stored.

    Args:
        longer_side: scale larger images down to this longer side, in pixels, by OpenCV's area filter.
        shorter_side: scale images to this shorter side, in pixels, by torchvision's ``Resize``.
        quality: JPEG quality, 1 to 100.
        raw_share: fraction of the images, evenly spread, that is stored as pixels: faster to read, more disk.
    """

    longer_side: int | None
    shorter_side: int | None
    quality: int
    raw_share: float

    def is_raw(self, sample: int) -> bool:
        return int((sample + 1) * self.raw_share) > int(sample * self.raw_share)


def write(
    path: Path, files: Files, classes: list[str], storage: Storage, *, skip_bad: bool = False, num_workers: int = 1
) -> None:
    """Write a ``.beton`` file and its description by threads, unless they exist already.

    Unreadable images are an error, or are left out with ``skip_bad``.

    Raises:
        UserError: if images cannot be read, the path holds a different file, or another process is writing it.
    """
    # Print paths as they are: rich would interpret brackets and colons.
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    about = _about(files, classes, storage)
    if _exists(path, about, skip_bad, console):
        return
    partial = path.with_name(path.name + ".partial")
    try:
        with _locked(partial, path) as file:
            if _exists(path, about, skip_bad, console):  # another process has just finished
                return
            payload_digest, bad = _write(file, files, storage, num_workers, console)
            if bad and not skip_bad:
                raise UserError(
                    f"{len(bad)} of {len(files)} images cannot be read, see above: repair or remove them, or leave "
                    "them out with --skip_bad"
                )
            table = beton.Beton.read(partial)
            counts = np.bincount(table.labels, minlength=len(classes)).tolist()
            about |= {
                "images_per_class": dict(zip(classes, counts, strict=True)),
                "left_out": bad,
                "structure_sha256": table.digest,
                "payload_sha256": payload_digest,
            }
            # The description comes first, so that a file under its own name is always complete.
            atomic_file.write(beton.description_path(path), json.dumps(about, indent=1))
            partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    left_out = f", {len(bad)} left out" if bad else ""
    console.print(f"{path}: {len(files) - len(bad):,} images{left_out}, {path.stat().st_size / 1e9:.2f} GB")


def check(path: Path, files: Files, classes: list[str], storage: Storage, *, skip_bad: bool = False) -> None:
    """Raise the error that ``write`` would raise because the path holds a different file."""
    if path.exists():
        _exists(path, _about(files, classes, storage), skip_bad, Console(quiet=True))


def _about(files: Files, classes: list[str], storage: Storage) -> dict[str, Any]:
    """Return the part of a file's description that is known before its images are read."""
    names = "".join(f"{os.path.basename(name)}\0{label}\0{_size(name)}\0" for name, label in files)
    return {
        "classes": classes,
        "settings": {**vars(storage), "images": len(files)},
        "files_sha256": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
    }


@contextmanager
def _locked(partial: Path, path: Path) -> Iterator[BinaryIO]:
    """Open and lock the partial file; finally remove it, and the description if ``path`` does not exist."""
    # Do not truncate: the file may belong to another process.
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{partial} is being written by another process") from None
        except OSError:  # a file system without locks
            pass
        try:
            yield file
        finally:
            partial.unlink(missing_ok=True)
            if not path.exists():
                beton.description_path(path).unlink(missing_ok=True)


def _exists(path: Path, about: dict[str, Any], skip_bad: bool, console: Console) -> bool:
    """Return whether the same file exists; raise an error if a different file does."""
    if not path.exists():
        return False
    found = beton.read_description(path)
    if found is None or {key: found.get(key) for key in about} != about:
        raise UserError(
            f"{path} exists with images of other names or sizes, or other settings: remove it, or choose another --out"
        )
    if found.get("left_out") and not skip_bad:
        raise UserError(
            f"{path} exists without {len(found['left_out'])} images that could not be read: remove it, or keep it with "
            "--skip_bad"
        )
    beton.Beton.open(path)
    console.print(f"{path} exists with images of the same names and sizes, and the same settings")
    return True


def _size(path: str) -> int:
    """Return the size of a file in bytes, or -1 if it is a link to a file that does not exist."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _write(file: BinaryIO, files: Files, storage: Storage, num_workers: int, console: Console) -> tuple[str, list[str]]:
    """Write the file; return the SHA-256 of its images, and the paths of the unreadable images."""
    samples, allocations = np.zeros(len(files), beton.SAMPLE), np.zeros(len(files), beton.ALLOCATION)
    position = -(-(beton.HEAD_SIZE + samples.nbytes) // PAGE) * PAGE
    digest, bad, count = hashlib.sha256(), [], 0
    file.truncate(0)
    file.seek(position)
    encoded = zip(files, _encoded(files, storage, num_workers), strict=True)
    for (path, label), each in track(encoded, "writing images", total=len(files), console=console):
        if isinstance(each, UserError):
            bad.append(path)
            console.print(str(each))
            continue
        image, stored = each
        gap = bytes(-position % PAGE) if -position % PAGE < stored.nbytes else b""
        for part in (gap, stored.data):
            file.write(part)
            digest.update(part)
        image["pointer"] = position = position + len(gap)
        samples[count], allocations[count] = (image, label), (count, position, stored.nbytes)
        position += stored.nbytes
        count += 1
    if not count:
        raise UserError(f"none of the {len(files)} images can be read")
    file.write(allocations[:count].tobytes())
    file.seek(0)
    file.write(beton.head(count, PAGE, position) + samples[:count].tobytes())
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest(), bad


def _encoded(files: Files, storage: Storage, num_workers: int) -> Iterator[_Encoded | UserError]:
    """Encode the images by threads and yield them in order; only a few are in memory at a time."""
    fields = imported("ffcv.fields")
    started: deque[Future[_Encoded | UserError]] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for sample, (path, _) in enumerate(files):
                started.append(pool.submit(_encode, path, storage, storage.is_raw(sample), fields))
                if len(started) > 4 * num_workers:
                    yield started.popleft().result()
            while started:
                yield started.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _encode(path: str, storage: Storage, raw: bool, fields: Any) -> _Encoded | UserError:
    """Return the record and the bytes of an image, or the reason why it cannot be stored."""
    try:
        image = read_image(path)
    except UserError as error:
        return error
    if storage.shorter_side:
        image = functional.resize(image, [storage.shorter_side])
    scale = min(1.0, storage.longer_side / max(image.size)) if storage.longer_side else 1.0
    if scale * min(image.size) < 1 or scale * max(image.size) > LONGEST:
        return UserError(f"{path} is too long and narrow to be stored at this size: remove it")
    field = fields.RGBImageField("raw" if raw else "jpg", storage.longer_side, jpeg_quality=storage.quality)
    row, stored = np.zeros(1, field.metadata_type), np.empty(0, np.uint8)

    def allocate(size: int) -> tuple[int, NDArray[np.uint8]]:
        nonlocal stored
        stored = np.empty(size, np.uint8)
        return 0, stored

    field.encode(row, np.asarray(image), allocate)
    if stored.nbytes > PAGE:
        side, share = ("--image_size", "--val_raw_share") if storage.shorter_side else ("--longer_side", "--raw_share")
        smaller = f"{side}, store JPEG with {share}=0" if raw else f"{side} or --quality"
        return UserError(
            f"{path} takes {stored.nbytes} bytes, more than the {PAGE} of a page: lower {smaller}, or remove it"
        )
    return row.view(beton.IMAGE)[0], stored
