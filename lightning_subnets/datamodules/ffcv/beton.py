"""A data set in one file, in FFCV's format, opened only if it is whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_subnets.errors import UserError

# FFCV 1.0.2's ffcv.types, for a data set of an image and a label; here so that a file is checked without FFCV.
HEADER = np.dtype(
    [("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"), ("allocations", "<u8")]
)
FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
SAMPLE = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
VERSION, JPEG, RAW = 2, 0, 1
FIELDS = [(2, b"image"), (1, b"label")]  # type and name
HEAD_SIZE = HEADER.itemsize + len(FIELDS) * FIELD.itemsize
_MOST_CLASSES = 2**20


@dataclass(frozen=True)
class Beton:
    """The table of contents of a ``.beton`` file: where each image is, how it is stored, its label.

    Attributes:
        pointers, sizes: of the stored bytes of each image in the file, int64 (samples,).
        modes: ``JPEG`` or ``RAW``, uint8 (samples,); raw pixels are uint8 (height, width, 3), RGB.
        heights, widths: in pixels, int64 (samples,).
        labels: int64 (samples,).
        classes: the names of the classes, or their numbers where nothing beside the file tells names.
    """

    path: Path
    pointers: NDArray[np.int64]
    sizes: NDArray[np.int64]
    modes: NDArray[np.uint8]
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def open(cls, path: Path) -> Beton:
        """Read a file's table of contents, and check it.

        Everything but the images themselves is checked: each lies inside the file and on no other, no sample is
        missing, and where a description lies beside the file (``description_path``), the digest in it holds. Rot in
        the images is found by ``verify``, and by their decoder.

        Raises:
            ValueError: naming the file and what is wrong with it.
        """
        contents = Contents.read(path)
        description = read_description(path)
        if description and description["structure_sha256"] != contents.digest:
            raise _damaged(path, f"its table of contents is not the one that {description_path(path).name} describes")
        images, labels = contents.samples["image"], contents.samples["label"]
        classes = description["classes"] if description else [str(label) for label in range(labels.max() + 1)]
        if len(classes) <= labels.max():
            raise _damaged(path, f"it has a label {labels.max()} and {len(classes)} classes")
        return cls(
            path,
            pointers=images["pointer"].astype(np.int64),
            sizes=contents.allocations["size"].astype(np.int64),
            modes=images["mode"].copy(),
            heights=images["height"].astype(np.int64),
            widths=images["width"].astype(np.int64),
            labels=labels.astype(np.int64),
            classes=classes,
        )


@dataclass(frozen=True)
class Contents:
    """A file without its images.

    Attributes:
        samples: in their order.
        allocations: in the order of the samples.
        digest: SHA-256 of all of the file but ``payload``.
        payload: the part of the file that holds the images.
    """

    samples: NDArray[Any]
    allocations: NDArray[Any]
    digest: str
    payload: range

    @classmethod
    def read(cls, path: Path) -> Contents:
        try:
            length = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(HEAD_SIZE)
                if len(head) < HEAD_SIZE:
                    raise _damaged(path, f"it is {length} bytes long, less than its header")
                header, fields = np.frombuffer(head, HEADER, 1)[0], np.frombuffer(head, FIELD, offset=HEADER.itemsize)
                if header["version"] != VERSION:
                    raise UserError(f"{path} is not of FFCV's format, version {VERSION} (its is {header['version']})")
                if header["num_fields"] != len(FIELDS) or fields[["type", "name"]].tolist() != FIELDS:
                    raise UserError(f"{path} does not hold an image and a label for each sample")
                # Python's integers, for the sum of two hostile numbers could overflow.
                count, end = int(header["num_samples"]), int(header["allocations"])
                start = HEAD_SIZE + count * SAMPLE.itemsize
                if not count:
                    raise _damaged(path, "it holds no sample")
                if not start <= end or end + count * ALLOCATION.itemsize != length:
                    raise _damaged(path, f"it is {length} bytes long, which is not what its header tells")
                table = file.read(count * SAMPLE.itemsize)
                file.seek(end)
                tail = file.read()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        samples, allocations = np.frombuffer(table, SAMPLE), np.frombuffer(tail, ALLOCATION)
        allocations = allocations[np.argsort(allocations["sample"], kind="stable")]  # quick on what is sorted
        _check(path, samples, allocations, range(start, end), int(header["page_size"]))
        digest = hashlib.sha256(head + table + tail).hexdigest()
        return cls(samples, allocations, digest, range(int(allocations["pointer"].min()), end))


def _check(path: Path, samples: NDArray[Any], allocations: NDArray[Any], room: range, page_size: int) -> None:
    images = samples["image"]
    if not np.array_equal(allocations["sample"], np.arange(len(samples), dtype=np.uint64)):
        raise _damaged(path, "its allocation table does not have each sample once")
    if not np.array_equal(allocations["pointer"], images["pointer"]):
        raise _damaged(path, "its samples and its allocation table place images differently")
    by_place = np.argsort(allocations["pointer"], kind="stable")
    pointers, sizes = allocations["pointer"][by_place], allocations["size"][by_place]
    if pointers[0] < room.start or pointers[-1] > room.stop:
        raise _damaged(path, "an image in it lies outside of the images' part of the file")
    if (sizes > np.append(pointers[1:], np.uint64(room.stop)) - pointers).any():
        raise _damaged(path, "images in it overlap")
    if not page_size or page_size & (page_size - 1):
        raise _damaged(path, f"its pages are of {page_size} bytes, which is not a power of two")
    modes, pixels = images["mode"], images["height"].astype(np.uint64) * images["width"]
    if (modes > RAW).any() or not pixels.all() or not allocations["size"].all():
        raise _damaged(path, "an image in it has no size, or is stored in an unknown way")
    if (allocations["size"] != 3 * pixels)[modes == RAW].any():
        raise _damaged(path, "an image in it is not as many bytes as its height and width tell")
    if samples["label"].min() < 0 or samples["label"].max() >= _MOST_CLASSES:
        raise _damaged(path, f"a label in it is outside [0, {_MOST_CLASSES})")


def head(count: int, page_size: int, allocations: int) -> bytes:
    """The first ``HEAD_SIZE`` bytes of a file.

    Args:
        count: of samples.
        page_size: in bytes, a power of two; no image lies across two pages, counted from the file's beginning.
        allocations: where in the file the allocation table begins.
    """
    header = np.array([(VERSION, len(FIELDS), page_size, count, allocations)], HEADER)
    return header.tobytes() + np.array([(*field, b"") for field in FIELDS], FIELD).tobytes()


def verify(path: Path) -> None:
    """Read the whole file and compare it with the digests in its description.

    Raises:
        ValueError: if it has none, or a byte of the file is another.
    """
    description = read_description(path)
    if description is None:
        raise UserError(f"{description_path(path)} is missing: there is nothing to compare {path.name} with")
    Beton.open(path)
    payload = Contents.read(path).payload
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(payload.start)
        while position := payload.stop - file.tell():
            digest.update(file.read(min(position, 1 << 24)))
    if digest.hexdigest() != description["payload_sha256"]:
        raise _damaged(path, "its images are not the bytes that were written")


def description_path(path: Path) -> Path:
    """Where the classes, counts, settings and digests of a file are kept: beside it."""
    return path.with_name(path.name + ".json")


def read_description(path: Path) -> dict[str, Any] | None:
    """What is told beside a file about it, or None where nothing is, for a file that FFCV itself has written."""
    place = description_path(path)
    try:
        description = json.loads(place.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{place} cannot be read ({error}): write {path.name} again, see data/README.md") from error
    if (
        not isinstance(description, dict)
        or not {"structure_sha256", "payload_sha256"} <= description.keys()
        or not isinstance(classes := description.get("classes"), list)
        or not all(isinstance(name, str) for name in classes)
    ):
        raise UserError(f"{place} does not describe a data set: write {path.name} again, see data/README.md")
    return description


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged or was never finished: {what}. Write it again, see data/README.md")
