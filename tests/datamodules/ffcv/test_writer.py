"""A written file holds the photographs: raw images to the bit, in their order, always the same bytes."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contents import CLASSES, MIXED, PIXELS, noise_files, photographs_in, pixels_of, stored
from numpy.typing import NDArray
from torchvision.transforms import v2

from lightning_subnets.datamodules.ffcv import beton, writer
from lightning_subnets.datamodules.ffcv.beton import Beton, verify
from lightning_subnets.datamodules.ffcv.loader import imported, installed
from lightning_subnets.datamodules.ffcv.writer import Storage, write
from lightning_subnets.datamodules.image_files import Files, read_image

cv2 = pytest.importorskip("cv2")  # comes with FFCV
pytestmark = pytest.mark.skipif(not installed(), reason="FFCV is not installed: data/install_ffcv.sh")


@pytest.fixture(scope="module")
def train(photographs: Path) -> Files:
    return photographs_in(photographs / "train")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.beton"


def equal(images: list[NDArray[np.uint8]], expected: list[NDArray[np.uint8]]) -> bool:
    return all(np.array_equal(image, other) for image, other in zip(images, expected, strict=True))


def test_a_jpeg_is_opencvs_of_the_photograph_at_that_quality(train: Files, path: Path) -> None:
    write(path, train, CLASSES, Storage(None, None, 75, 0.0))
    table, content = Beton.open(path), path.read_bytes()
    assert (table.modes == beton.JPEG).all()
    for pointer, size, pixels in zip(table.pointers, table.sizes, pixels_of(train), strict=True):
        expected = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
        assert content[pointer : pointer + size] == expected.tobytes()


def test_the_longer_side_limits_an_image_and_leaves_a_smaller_one(train: Files, path: Path) -> None:
    write(path, train, CLASSES, Storage(250, None, 90, 1.0))
    kept = 0
    for image, pixels in zip(stored(path), pixels_of(train), strict=True):
        height, width, _ = pixels.shape
        kept += max(height, width) <= 250
        if max(height, width) > 250:
            ratio = 250 / max(height, width)
            shape = int(ratio * width), int(ratio * height)
            assert max(shape) == 250
            pixels = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA).astype(np.uint8)
        assert np.array_equal(image, pixels)
    assert 0 < kept < len(train)


def test_the_shorter_side_is_scaled_exactly_as_by_torchvision(train: Files, path: Path) -> None:
    write(path, train, CLASSES, Storage(None, 256, 90, 1.0))
    resize = v2.Resize(256)
    expected = [np.asarray(resize(read_image(file))) for file, _ in train]
    assert {min(image.shape[:2]) for image in expected} == {256}
    assert equal(stored(path), expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_raw_share_is_kept_and_evenly_spread(share: float, path: Path) -> None:
    write(path, noise_files(path.parent, 40), CLASSES, Storage(None, None, 90, share), num_workers=2)
    raw = Beton.open(path).modes == beton.RAW
    assert raw.sum() == round(40 * share)
    # The share holds among the first images, for any number of them.
    assert np.abs(raw.cumsum() - share * np.arange(1, 41)).max() < 1


def test_raw_images_and_labels_are_those_of_the_files_in_their_order(path: Path) -> None:
    files = noise_files(path.parent, 30)
    files = [files[index] for index in np.random.default_rng(1).permutation(30)]
    write(path, files, CLASSES, PIXELS, num_workers=4)
    assert Beton.open(path).labels.tolist() == [label for _, label in files]
    assert (Beton.open(path).modes == beton.RAW).all()
    assert equal(stored(path), pixels_of(files))
    assert (np.diff(Beton.open(path).pointers) > 0).all()


def test_the_bytes_do_not_depend_on_threads_or_on_the_rests_of_a_killed_writer(train: Files, tmp_path: Path) -> None:
    written = set()
    for workers in (1, 5):
        path = tmp_path / str(workers) / "a.beton"
        path.parent.mkdir()
        # A killed writer leaves such files; these are longer than the new ones.
        path.with_name("a.beton.partial").write_bytes(b"\xff" * (20 << 20))
        path.with_name(".a.beton.json.01234567.partial").write_bytes(b"\xff" * 100_000)
        beton.description_path(path).write_bytes(b"\xff" * 100_000)
        write(path, train, CLASSES, Storage(200, None, 90, 0.5), num_workers=workers)
        assert sorted(file.name for file in path.parent.iterdir()) == ["a.beton", "a.beton.json"]
        written.add((path.read_bytes(), beton.description_path(path).read_bytes()))
    assert len(written) == 1


def test_the_description_has_classes_counts_settings_and_digests(path: Path) -> None:
    files = noise_files(path.parent, 10)
    write(path, files, [*CLASSES, "yak"], Storage(30, 20, 80, 0.25))
    table = Beton.open(path)
    payload, labels = table.payload, [label for _, label in files]
    names = "".join(f"{Path(name).name}\0{label}\0{Path(name).stat().st_size}\0" for name, label in files)
    assert json.loads(beton.description_path(path).read_text()) == {
        "classes": ["cat", "dog", "owl", "yak"],
        "settings": {"longer_side": 30, "shorter_side": 20, "quality": 80, "raw_share": 0.25, "images": 10},
        "files_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "images_per_class": {"cat": labels.count(0), "dog": labels.count(1), "owl": labels.count(2), "yak": 0},
        "left_out": [],
        "structure_sha256": table.digest,
        "payload_sha256": hashlib.sha256(path.read_bytes()[payload.start : payload.stop]).hexdigest(),
    }


def test_no_image_crosses_a_page_boundary_and_images_on_a_page_are_adjacent(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PAGE", 1 << 13)
    write(path, noise_files(path.parent, 30), CLASSES, MIXED, num_workers=2)
    table, content = Beton.open(path), path.read_bytes()
    ends = table.pointers + table.sizes
    assert np.array_equal(table.pointers // 2**13, (ends - 1) // 2**13)
    new_page = np.flatnonzero(table.pointers[1:] != ends[:-1])
    assert len(new_page) > 5
    for before in new_page:
        assert table.pointers[before + 1] % 2**13 == 0
        # The next image did not fit.
        assert ends[before] // 2**13 == (ends[before] + table.sizes[before + 1] - 1) // 2**13 - 1
        assert not any(content[ends[before] : table.pointers[before + 1]])
    assert table.pointers[0] == 2**13
    assert imported("ffcv.reader").Reader(str(path)).page_size == 2**13
    verify(path)


@pytest.mark.parametrize("workers", [1, 3])
def test_few_images_are_in_memory_at_a_time(workers: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, started, most, done = noise_files(path.parent, 60), 0, 0, 0

    class Pool(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
            nonlocal started, most
            started += 1
            most = max(most, started - done)
            return super().submit(*arguments, **options)

    monkeypatch.setattr(writer, "ThreadPoolExecutor", Pool)
    for encoded in writer._encoded(files, PIXELS, workers):
        assert not isinstance(encoded, ValueError)
        done += 1
    assert started == done == 60
    assert workers < most <= 4 * workers + 1
