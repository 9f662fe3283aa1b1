"""CIFAR from an image folder and from torchvision's files."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from repository import ROOT
from torchvision import datasets

from lightning_subnets import UserError
from lightning_subnets.datamodules import CIFAR10, CIFAR100
from lightning_subnets.subnet_file.container import Container


def write_torchvision_files(root: Path, name: type[CIFAR10]) -> torch.Tensor:
    """Write torchvision's files with 2 images in each; return the images, (images, 3, 32, 32), test images last."""
    source = getattr(datasets, name.__name__)
    directory = root / source.base_folder
    directory.mkdir(parents=True)
    files = [file for file, _ in source.train_list + source.test_list]
    images = np.random.default_rng(0).integers(0, 256, (2 * len(files), 3, 32, 32), dtype=np.uint8)
    labels = "labels" if name is CIFAR10 else "fine_labels"
    for index, file in enumerate(files):
        part = slice(2 * index, 2 * index + 2)
        content = {"data": images[part].reshape(2, -1), labels: [part.start, part.start + 1]}
        (directory / file).write_bytes(pickle.dumps(content))
    classes = [f"class {index}" for index in range(len(images))]
    (directory / source.meta["filename"]).write_bytes(pickle.dumps({source.meta["key"]: classes}))
    return torch.from_numpy(images)


def test_a_folder_gives_its_pixels_and_its_classes_in_alphabetical_order(cifar_folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(cifar_folder, tmp_path / "cifar")
    for part in ("train", "test"):
        (root / part / "class_3").rename(root / part / "zebra")
    data = CIFAR10(str(root))
    data.setup("fit")
    assert data.classes == [*(f"class_{label}" for label in range(10) if label != 3), "zebra"]
    for part, (images, labels), count in (("train", data.train_set, 6), ("test", data.test_set, 3)):
        assert labels.tolist() == [label for label in range(10) for _ in range(count)]
        assert images.dtype == torch.uint8
        for path, pixels in zip(sorted((root / part).glob("*/*.png")), images, strict=True):
            with Image.open(path) as image:
                assert torch.equal(pixels.permute(1, 2, 0), torch.from_numpy(np.array(image)))


def test_training_images_are_augmented_and_test_and_held_out_images_are_not(cifar_folder: Path) -> None:
    data = CIFAR10(str(cifar_folder), batch_size=60)
    data.setup("fit")
    (images, _), *_ = data.test_dataloader()
    assert torch.equal(images, data.test_set[0])
    (images, labels), *_ = data.train_dataloader()
    assert images.shape == (60, *data.image_shape)
    assert labels.sort().values.tolist() == data.train_set[1].tolist()
    before = {image.numpy().tobytes() for image in data.train_set[0]}
    assert before.isdisjoint({image.numpy().tobytes() for image in images})
    data.validation_fraction = 0.5
    (images, labels), *_ = data.val_dataloader()
    held_out = data.split()[1]
    assert len(labels) == 30
    assert torch.equal(images, data.train_set[0][held_out])
    assert torch.equal(labels, data.train_set[1][held_out])


@pytest.mark.parametrize("name", [CIFAR10, CIFAR100])
def test_torchvisions_files_are_read(name: type[CIFAR10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_torchvision_files(tmp_path, name)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: Path(path).is_file())
    data = name(str(tmp_path))
    data.prepare_data()
    data.setup("fit")
    assert data.classes == [f"class {index}" for index in range(len(images))]
    assert torch.equal(data.train_set[0], images[:-2])
    assert torch.equal(data.test_set[0], images[-2:])
    assert data.train_set[1].tolist() == list(range(len(images) - 2))
    assert data.test_set[1].tolist() == [len(images) - 2, len(images) - 1]


def test_torchvisions_files_are_downloaded_once_if_they_and_a_folder_are_missing(
    cifar_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(url: str, root: Path, **_: str) -> None:
        fetched.append(url)
        write_torchvision_files(Path(root), CIFAR10)

    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: Path(path).is_file())
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    for root, images in ((cifar_folder, 60), (tmp_path / "new", 10)):
        data = CIFAR10(str(root), download=True)
        for _ in range(2):
            data.prepare_data()
        data.setup("fit")
        assert len(data.train_set[1]) == images
    assert fetched == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]


def test_missing_and_damaged_files_are_errors_that_say_how_to_download_them(tmp_path: Path) -> None:
    place = re.escape(str(tmp_path))
    for name, files in ((CIFAR10, "cifar-10-batches-py"), (CIFAR100, "cifar-100-python")):
        with pytest.raises(UserError, match=rf"{place} holds neither {files} nor .*download=true"):
            name(str(tmp_path))
    write_torchvision_files(tmp_path, CIFAR10)
    with pytest.raises(UserError, match=rf"{place}.* is incomplete or damaged .*download=true"):
        CIFAR10(str(tmp_path)).setup("fit")


def test_a_download_that_is_not_the_whole_archive_is_not_blamed_on_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    with pytest.raises(
        UserError, match=r"cifar-100-python\.tar\.gz .* is not the whole archive .*: run the command again"
    ):
        CIFAR100(str(tmp_path), download=True).prepare_data()


def test_a_download_without_internet_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(UserError, match=r"cannot be downloaded .*: run the command once on a machine with internet"):
        CIFAR10(str(tmp_path), download=True).prepare_data()


def test_images_are_normalised_as_in_the_files_of_earlier_versions() -> None:
    stated = Container(ROOT / "results" / "zoo" / "cifar10_edge_popup.subnet").header.preprocessing
    assert (list(CIFAR10.mean), list(CIFAR10.std)) == (stated["mean"], stated["std"])
    assert (CIFAR100.mean, CIFAR100.std) == ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))
