"""Images written into one ``.beton`` file, FFCV's format, by threads."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from torchvision.transforms import v2

from lightning_subnets.datamodules.ffcv import beton
from lightning_subnets.datamodules.ffcv.loader import imported
from lightning_subnets.datamodules.image_files import Files, read_image
from lightning_subnets.errors import UserError

PAGE = 1 << 23  # FFCV's own choice; an image lies within a page
LONGEST = 65_500  # pixels of a JPEG's side


@dataclass(frozen=True)
class Storage:
    """How the images of a file are stored.

    Args:
        longer_side: images are made smaller until their longer side is at most this, in pixels, by OpenCV's area
            filter; null leaves them.
        shorter_side: images are scaled until their shorter side is this, by torchvision's ``Resize``; null leaves them.
        quality: of JPEG, 1 to 100.
        raw_share: of the images, evenly spread, kept as pixels, which is fast to read and takes more disk.
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
    """Write one ``.beton`` file, and its description beside it.

    Args:
        files: path and label of each image.

    Raises:
        ValueError: if images cannot be read, another file is there already, or another process is writing it.
    """
    # Paths are printed as they are, whatever rich would read into them.
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    names = "".join(f"{Path(name).name}\0{label}\0" for name, label in files)
    about: dict[str, Any] = {
        "classes": classes,
        "settings": {**vars(storage), "images": len(files)},
        "names_sha256": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
    }
    if _is_there(path, about, skip_bad, console):
        return
    partial, description = path.with_name(path.name + ".partial"), beton.description_path(path)
    described, ours = description.with_name(description.name + ".partial"), False
    try:
        # Made if it is not there, and not cut: it may be another's.
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = True
            except BlockingIOError:
                raise UserError(f"{partial} is being written by another process") from None
            if _is_there(path, about, skip_bad, console):  # since another process has finished just now
                return
            payload_digest, bad = _write(file, path.name, files, storage, num_workers, console)
        if bad and not skip_bad:
            raise UserError(
                f"{len(bad)} of {len(files)} images cannot be read, see above: mend them, take them away, or go "
                "on without them with --skip-bad"
            )
        contents = beton.Contents.read(partial)
        counts = np.bincount(contents.samples["label"], minlength=len(classes)).tolist()
        about |= {
            "images_per_class": dict(zip(classes, counts, strict=True)),
            "left_out": bad,
            "structure_sha256": contents.digest,
            "payload_sha256": payload_digest,
        }
        described.write_text(json.dumps(about, indent=1))
        # The description first, and each whole or not at all: a file under its own name is finished.
        described.replace(description)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if ours:
            for left_over in (partial, described, *(() if path.exists() else (description,))):
                left_over.unlink(missing_ok=True)
    left_out = f", {len(bad)} left out" if bad else ""
    console.print(f"{path}: {len(files) - len(bad):,} images{left_out}, {path.stat().st_size / 1e9:.2f} GB")


def _is_there(path: Path, about: dict[str, Any], skip_bad: bool, console: Console) -> bool:
    """Whether the file that is wanted has been written before; an error if it is another."""
    if not path.exists():
        return False
    there = beton.read_description(path)
    if there is None or {key: there.get(key) for key in about} != about:
        raise UserError(f"{path} is there already, of other images or settings: remove it, or choose another --out")
    if there.get("left_out") and not skip_bad:
        raise UserError(f"{path} is there already, without {len(there['left_out'])} images that could not be read")
    beton.Beton.open(path)
    console.print(f"{path} is there already, of the same images and settings")
    return True


def _write(
    file: BinaryIO, name: str, files: Files, storage: Storage, num_workers: int, console: Console
) -> tuple[str, list[str]]:
    """Write all of a file but its description; the SHA-256 of its images, and the images that cannot be read."""
    samples, allocations = np.zeros(len(files), beton.SAMPLE), np.zeros(len(files), beton.ALLOCATION)
    position = -(-(beton.HEAD_SIZE + samples.nbytes) // PAGE) * PAGE
    digest, bad, count = hashlib.sha256(), [], 0
    file.truncate(0)
    file.seek(position)
    with _progress(console) as progress:
        task = progress.add_task(name, total=len(files))
        for (path, label), encoded in zip(files, _encoded(files, storage, num_workers), strict=True):
            progress.advance(task)
            if isinstance(encoded, UserError):
                bad.append(path)
                progress.console.print(str(encoded))
                continue
            image, stored = encoded
            if (room := -position % PAGE) < stored.nbytes:
                gap = bytes(room)
                file.write(gap)
                digest.update(gap)
                position += room
            image["pointer"] = position
            samples[count], allocations[count] = (image, label), (count, position, stored.nbytes)
            file.write(stored.data)
            digest.update(stored.data)
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


_Encoded = tuple[Any, NDArray[np.uint8]]


def _encoded(files: Files, storage: Storage, num_workers: int) -> Iterator[_Encoded | UserError]:
    """Each image as it is stored, in the order of the files, with few of them in memory at a time."""
    encode = _encoder(storage)
    under_way: deque[Future[_Encoded]] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for sample, (path, _) in enumerate(files):
                under_way.append(pool.submit(encode, path, storage.is_raw(sample)))
                if len(under_way) > 4 * num_workers:
                    yield _outcome(under_way.popleft())
            while under_way:
                yield _outcome(under_way.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _outcome(future: Future[_Encoded]) -> _Encoded | UserError:
    error = future.exception()
    return error if isinstance(error, UserError) else future.result()


def _encoder(storage: Storage) -> Any:
    fields = imported("ffcv.fields")

    def encode(path: str, raw: bool) -> _Encoded:
        image = read_image(path)
        if storage.shorter_side:
            image = v2.functional.resize(image, [storage.shorter_side])
        scale = min(1.0, storage.longer_side / max(image.size)) if storage.longer_side else 1.0
        if scale * min(image.size) < 1 or scale * max(image.size) > LONGEST:
            raise UserError(
                f"{path} is too long and narrow: scaled as it is to be stored, {image.size}, it has no place"
            )
        field = fields.RGBImageField("raw" if raw else "jpg", storage.longer_side, jpeg_quality=storage.quality)
        row, stored = np.zeros(1, field.metadata_type), np.empty(0, np.uint8)

        def allocate(size: int) -> tuple[int, NDArray[np.uint8]]:
            nonlocal stored
            stored = np.empty(size, np.uint8)
            return 0, stored

        field.encode(row, np.asarray(image), allocate)
        if stored.nbytes > PAGE:
            raise UserError(f"{path} takes {stored.nbytes} bytes as it is to be stored, more than {PAGE}")
        return row.view(beton.IMAGE)[0], stored

    return encode


class _Speed(ProgressColumn):
    def render(self, task: Task) -> str:
        return f"{task.speed:,.0f} images/s" if task.speed else ""


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)
