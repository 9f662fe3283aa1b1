"""CIFAR from an image folder and from torchvision's files."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_subnets import UserError
from lightning_subnets.datamodules import CIFAR10, CIFAR100


@pytest.fixture
def folder(cifar_folder: Path, tmp_path: Path) -> Path:
    """A copy of the image folder, to damage."""
    return shutil.copytree(cifar_folder, tmp_path / "cifar")


def write_torchvision_files(root: Path, name: type[CIFAR10]) -> torch.Tensor:
    """Files as torchvision's of 2 images in each, and the images, those to test last, (images, 3, 32, 32)."""
    source = name.torchvision_class
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


def test_the_labels_of_a_folder_are_its_classes_in_the_order_of_the_alphabet(folder: Path) -> None:
    for part in ("train", "test"):
        (folder / part / "class_3").rename(folder / part / "zebra")
    data = CIFAR10(str(folder))
    data.setup("fit")
    assert data.classes == [*(f"class_{label}" for label in range(10) if label != 3), "zebra"]
    assert data.train_set[1].tolist() == [label for label in range(10) for _ in range(6)]
    assert data.test_set[1].tolist() == [label for label in range(10) for _ in range(3)]
    with Image.open(folder / "test" / "zebra" / "0.png") as image:
        assert torch.equal(data.test_set[0][27].permute(1, 2, 0), torch.from_numpy(np.array(image)))


def test_the_pixels_of_a_folder_are_those_of_its_files(cifar_folder: Path) -> None:
    data = CIFAR10(str(cifar_folder))
    data.setup("fit")
    for part, images in (("train", data.train_set[0]), ("test", data.test_set[0])):
        paths = sorted((cifar_folder / part).glob("*/*.png"))
        assert images.dtype == torch.uint8
        assert len(images) == len(paths)
        for path, pixels in zip(paths, images, strict=True):
            with Image.open(path) as image:
                assert torch.equal(pixels.permute(1, 2, 0), torch.from_numpy(np.array(image)))


def test_training_images_are_augmented_and_test_images_are_not(cifar_folder: Path) -> None:
    data = CIFAR10(str(cifar_folder), batch_size=60)
    data.setup("fit")
    (images, _), *_ = data.test_dataloader()
    assert torch.equal(images, data.test_set[0])
    (images, labels), *_ = data.train_dataloader()
    assert images.shape == (60, *data.image_shape)
    assert labels.sort().values.tolist() == data.train_set[1].tolist()
    assert {image.numpy().tobytes() for image in images}.isdisjoint(
        {image.numpy().tobytes() for image in data.train_set[0]}
    )


def test_held_out_images_are_not_augmented(cifar_folder: Path) -> None:
    data = CIFAR10(str(cifar_folder), validation_fraction=0.5)
    data.setup("fit")
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


def test_torchvisions_files_are_fetched_where_they_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def fetch(url: str, root: Path, **_: str) -> None:
        fetched.append(url)
        write_torchvision_files(Path(root), CIFAR10)

    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: Path(path).is_file())
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    data = CIFAR10(str(tmp_path / "new"), download=True)
    for _ in range(2):
        data.prepare_data()
    data.setup("fit")
    assert fetched == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    assert len(data.train_set[1]) == 10


def test_nothing_is_fetched_where_there_is_an_image_folder(cifar_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", pytest.fail)
    data = CIFAR10(str(cifar_folder), download=True)
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_set[1]) == 60


def test_damaged_torchvision_files_are_an_error_that_says_where_and_what_to_do(tmp_path: Path) -> None:
    write_torchvision_files(tmp_path, CIFAR10)
    data = CIFAR10(str(tmp_path))
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))}.*download"):
        data.setup("fit")


@pytest.mark.parametrize(("name", "files"), [(CIFAR10, "cifar-10-batches-py"), (CIFAR100, "cifar-100-python")])
def test_missing_data_are_an_error_that_says_what_is_looked_for_and_how_to_fetch_it(
    name: type[CIFAR10], files: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))} holds neither {files} nor .*download=true"):
        name(str(tmp_path))


def test_an_image_of_another_size_is_an_error_that_names_the_file_and_its_size(folder: Path) -> None:
    path = folder / "train" / "class_4" / "2.png"
    Image.new("RGB", (48, 32)).save(path)
    with pytest.raises(UserError, match=f"{re.escape(str(path))} is 48x32 pixels"):
        CIFAR10(str(folder)).setup("fit")


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_image_is_an_error_that_names_the_file(content: bytes | None, folder: Path) -> None:
    path = folder / "test" / "class_9" / "1.png"
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))} is not a readable image"):
        CIFAR10(str(folder)).setup("fit")


def test_a_class_that_only_one_part_has_is_an_error_that_names_it(folder: Path) -> None:
    (folder / "test" / "class_7").rename(folder / "test" / "horse")
    with pytest.raises(UserError, match="only one of them has class_7, horse"):
        _ = CIFAR10(str(folder)).classes


def test_classes_that_differ_never_get_as_far_as_wrong_labels(folder: Path) -> None:
    (folder / "test" / "class_7").rename(folder / "test" / "horse")
    with pytest.raises(UserError, match="only one of them has class_7, horse"):
        CIFAR10(str(folder)).setup("fit")


def test_an_image_folder_without_a_test_set_is_an_error_that_names_what_is_missing(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    data = CIFAR10(str(folder))
    with pytest.raises(UserError, match=f"{re.escape(str(folder / 'test'))} is missing"):
        _ = data.classes
    with pytest.raises(UserError, match=re.escape(str(folder / "test"))):
        data.setup("fit")


def test_a_class_without_an_image_is_an_error_that_names_it(folder: Path) -> None:
    for path in (folder / "train" / "class_5").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="class_5"):
        CIFAR10(str(folder)).setup("fit")
