"""A data set in one ``.beton`` file, FFCV's format, opened only if it is whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_subnets.errors import UserError

# The types of FFCV 1.0.2's ffcv.types for an image and a label, repeated here to check a file without FFCV.
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
        pointers: where the stored bytes of each image begin in the file, int64 (samples,).
        sizes: the number of those bytes, int64 (samples,).
        modes: ``JPEG`` or ``RAW``, uint8 (samples,); raw pixels are uint8 (height, width, 3), RGB.
        heights: in pixels, int64 (samples,).
        widths: in pixels, int64 (samples,).
        labels: int64 (samples,).
        classes: the names of the classes, or their numbers for a file without a description.
        payload: the part of the file that holds the images.
        digest: SHA-256 of the rest of the file.
    """

    path: Path
    pointers: NDArray[np.int64]
    sizes: NDArray[np.int64]
    modes: NDArray[np.uint8]
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: list[str]
    payload: range
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def open(cls, path: Path) -> Beton:
        """Read a file's table of contents, and check it against itself and the description.

        Each image lies inside the file and overlaps no other, no sample is missing, and the digest in the description,
        if there is one, matches. The images themselves are not read: ``verify`` and the decoder find damage in them.

        Raises:
            UserError: if the file is damaged.
        """
        table, description = cls.read(path), read_description(path)
        if description is None:
            return table
        if description["structure_sha256"] != table.digest:
            raise _damaged(path, f"its table of contents is not the one that {description_path(path).name} describes")
        if len(table.classes) > len(description["classes"]):
            raise _damaged(path, f"it has a label {table.labels.max()} and {len(description['classes'])} classes")
        return replace(table, classes=description["classes"])

    @classmethod
    def read(cls, path: Path) -> Beton:
        """Read and check a file's table of contents without its description."""
        try:
            length = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(HEAD_SIZE)
                if len(head) < HEAD_SIZE:
                    raise _damaged(path, f"it is {length} bytes long, less than its header")
                header, fields = np.frombuffer(head, HEADER, 1)[0], np.frombuffer(head, FIELD, offset=HEADER.itemsize)
                if header["version"] != VERSION:
                    raise UserError(f"{path} is not in FFCV's format, version {VERSION} (found {header['version']})")
                if header["num_fields"] != len(FIELDS) or fields[["type", "name"]].tolist() != FIELDS:
                    raise UserError(
                        f"{path} has other fields than an RGBImageField named image and an IntField named label, in "
                        "this order: write it again with these two, see data/README.md"
                    )
                # Python integers, because sums of hostile 64-bit numbers could overflow.
                count, end = int(header["num_samples"]), int(header["allocations"])
                start = HEAD_SIZE + count * SAMPLE.itemsize
                if not count:
                    raise _damaged(path, "it holds no sample")
                if not start <= end or end + count * ALLOCATION.itemsize != length:
                    raise _damaged(path, f"it is {length} bytes long, which contradicts its header")
                table = file.read(count * SAMPLE.itemsize)
                file.seek(end)
                tail = file.read()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        samples, allocations = np.frombuffer(table, SAMPLE), np.frombuffer(tail, ALLOCATION)
        allocations = allocations[np.argsort(allocations["sample"], kind="stable")]  # fast on sorted records
        _check(path, samples, allocations, range(start, end), int(header["page_size"]))
        images, labels = samples["image"], samples["label"].astype(np.int64)
        return cls(
            path,
            pointers=images["pointer"].astype(np.int64),
            sizes=allocations["size"].astype(np.int64),
            modes=images["mode"].copy(),
            heights=images["height"].astype(np.int64),
            widths=images["width"].astype(np.int64),
            labels=labels,
            classes=[str(label) for label in range(labels.max() + 1)],
            payload=range(int(allocations["pointer"].min()), end),
            digest=hashlib.sha256(head + table + tail).hexdigest(),
        )


def _check(path: Path, samples: NDArray[Any], allocations: NDArray[Any], room: range, page_size: int) -> None:
    """Raise an error if the records contradict each other, or an image lies outside ``room``."""
    images, labels = samples["image"], samples["label"]
    by_place = np.argsort(allocations["pointer"], kind="stable")
    pointers, sizes = allocations["pointer"][by_place], allocations["size"][by_place]
    modes, pixels = images["mode"], images["height"].astype(np.uint64) * images["width"]
    indices = np.arange(len(samples), dtype=np.uint64)
    damages = {
        "its allocation table does not have each sample once": (allocations["sample"] != indices).any(),
        "its samples and its allocation table place images differently": np.any(
            allocations["pointer"] != images["pointer"]
        ),
        "an image in it lies outside the images' part of the file": pointers[0] < room.start
        or pointers[-1] > room.stop,
        "images in it overlap": (sizes > np.append(pointers[1:], np.uint64(room.stop)) - pointers).any(),
        f"its pages are of {page_size} bytes, which is not a power of two": page_size.bit_count() != 1,
        "an image in it has no size": not pixels.all() or not sizes.all(),
        "an image in it is stored in an unknown way": (modes > RAW).any(),
        "an image in it has not 3 bytes a pixel": (allocations["size"] != 3 * pixels)[modes == RAW].any(),
        f"a label in it is outside [0, {_MOST_CLASSES})": labels.min() < 0 or labels.max() >= _MOST_CLASSES,
    }
    for damage, found in damages.items():
        if found:
            raise _damaged(path, damage)


def head(count: int, page_size: int, allocations: int) -> bytes:
    """Return the first ``HEAD_SIZE`` bytes of a file of ``count`` samples with its allocation table at a position.

    The page size in bytes is a power of two; no image crosses a page boundary, counted from the start of the file.
    """
    header = np.array([(VERSION, len(FIELDS), page_size, count, allocations)], HEADER)
    return header.tobytes() + np.array([(*field, b"") for field in FIELDS], FIELD).tobytes()


def verify(path: Path) -> None:
    """Read the whole file, and raise an error if it differs from the digests in its description or has none."""
    description = read_description(path)
    if description is None:
        raise UserError(f"{description_path(path)} is missing, so {path.name} cannot be verified")
    payload, digest = Beton.open(path).payload, hashlib.sha256()
    with path.open("rb") as file:
        file.seek(payload.start)
        while remaining := payload.stop - file.tell():
            digest.update(file.read(min(remaining, 1 << 24)))
    if digest.hexdigest() != description["payload_sha256"]:
        raise _damaged(path, "its images are not the bytes that were written")


def description_path(path: Path) -> Path:
    """Return the path of a file's description: its classes, counts, settings and digests."""
    return path.with_name(path.name + ".json")


def read_description(path: Path) -> dict[str, Any] | None:
    """Return the description of a file, or None if there is none: a file that FFCV itself wrote has none."""
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
    return UserError(f"{path} is damaged or incomplete: {what}. Write it again, see data/README.md")
