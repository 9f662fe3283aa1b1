"""A file in FFCV's format is the same for FFCV and for this package, whichever of them wrote it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apart import run_apart
from contents import CLASSES, PIXELS, joined, noise_files, photographs_in, pixels_of, stored, stream

from lightning_subnets.datamodules.ffcv.beton import Beton
from lightning_subnets.datamodules.ffcv.loader import imported, installed
from lightning_subnets.datamodules.ffcv.writer import Storage, write
from lightning_subnets.datamodules.image_files import Files, read_image

pytestmark = [
    pytest.mark.skipif(not installed(), reason="FFCV is not installed: data/install_ffcv.sh"),
    pytest.mark.thorough,
]


def read_by_ffcv(path: Path, out: Path) -> None:
    loader = imported("ffcv.loader").Loader(str(path), batch_size=4, num_workers=2, drop_last=False)
    # FFCV writes the next batch over this one.
    batches = [(images.clone(), labels.clone()) for images, labels in loader]
    images, labels = zip(*batches, strict=True)
    torch.save((torch.cat(images), torch.cat(labels).flatten()), out)


def test_ffcvs_loader_reads_the_pixels_and_labels_that_we_wrote(tmp_path: Path) -> None:
    # FFCV needs images of one size if it is not to crop them.
    files, path = noise_files(tmp_path, 10, one_size=True), tmp_path / "a.beton"
    write(path, files, CLASSES, PIXELS)
    assert run_apart(read_by_ffcv, path, tmp_path / "read.pt") == 0
    images, labels = torch.load(tmp_path / "read.pt")
    assert np.array_equal(images, np.stack(pixels_of(files)))
    assert labels.tolist() == [label for _, label in files]


class _Photographs:
    def __init__(self, files: Files) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.files[index]
        return read_image(path), label


def write_by_ffcv(path: Path, files: Files, mode: str) -> None:
    # Forked processes inherit the imports; those of a fork server would import everything again.
    multiprocessing.set_start_method("fork", force=True)
    fields = imported("ffcv.fields")
    described = {"image": fields.RGBImageField(mode), "label": fields.IntField()}
    # Two processes with short chunks write a table that is not in the order of the samples.
    imported("ffcv.writer").DatasetWriter(str(path), described, num_workers=2).from_indexed_dataset(
        _Photographs(files), chunksize=1
    )


@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_a_file_that_ffcv_wrote_has_the_images_and_labels_of_ours(mode: str, photographs: Path, tmp_path: Path) -> None:
    files = photographs_in(photographs / "train")
    ours, theirs = tmp_path / "ours.beton", tmp_path / "theirs.beton"
    write(ours, files, CLASSES, Storage(None, None, 90, float(mode == "raw")))
    assert run_apart(write_by_ffcv, theirs, files, mode) == 0
    tables = Beton.open(ours), Beton.open(theirs)
    assert tables[1].classes == ["0", "1", "2"]
    (our_images, our_labels), (images, labels) = (joined(stream(table, augment=False)) for table in tables)
    assert torch.equal(images, our_images)
    assert labels.tolist() == our_labels.tolist() == [label for _, label in files]
    for image, expected in zip(stored(theirs), stored(ours), strict=True):
        assert np.array_equal(image, expected)
