"""Claims about ``.subnet`` files: what ``claims.yaml`` states of each file of a folder, and what the file shows."""

from __future__ import annotations

import datetime
import hashlib
import shlex
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from lightning_subnets import datamodules
from lightning_subnets.datamodules.in_memory import InMemoryDataModule
from lightning_subnets.errors import UserError, as_user_error, unknown
from lightning_subnets.progress_bar import progress
from lightning_subnets.run_files.saved_config import data_of_file
from lightning_subnets.run_files.strict_yaml import read_yaml
from lightning_subnets.subnet_file import load_subnet
from lightning_subnets.subnet_file.container import Container
from lightning_subnets.training.schema import Count, Strict

NAME = "claims.yaml"


class File(Strict):
    """The facts about a file that need no data."""

    sha256: str
    bytes: Count
    network: str
    kept: Count
    total: Count
    seed: int


class Test(Strict):
    """The facts about the test of a file's network.

    Attributes:
        data: the class of ``lightning_subnets.datamodules``.
        images: the number of test images.
        images_sha256: of the test images as bytes, then of their labels.
        accuracy: the fraction of the test images that are classified correctly, computed in float64. In float64
            rounding decides no image, so that the number is the same on every machine.
    """

    data: str
    images: Count
    images_sha256: str
    accuracy: float


class Claim(Strict):
    """A row of ``claims.yaml``, with the command that made the file, and the date."""

    file: File
    test: Test
    command: str
    date: datetime.date


def read(folder: Path) -> dict[str, Claim]:
    """Return the claims of a folder by file name, or raise a ``UserError``."""
    path = folder / NAME
    claims: dict[str, Claim] = read_yaml(path, dict[str, Claim], "has no claims")[1]
    for name in claims:
        if Path(name).name != name or not name.endswith(".subnet") or not name.isprintable():
            raise UserError(
                f"{path} names {name!r:.100}, expected a .subnet file of the same folder with a printable name"
            )
    return claims


def file_facts(path: Path) -> File:
    """Return the facts about a file, or raise a ``UserError`` if it is damaged."""
    container = Container(path)
    header = container.header
    return File(
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        bytes=container.size,
        network=header.network.builder,
        kept=header.kept,
        total=header.total,
        seed=header.weights.seed,
    )


def check_arguments(arguments: dict[str, Any]) -> None:
    """Check that some data in memory take each argument, or raise a ``UserError``."""
    kinds = [getattr(datamodules, name) for name in datamodules.__all__]
    known = {name for kind in kinds if issubclass(kind, InMemoryDataModule) for name in signature(kind).parameters}
    for name in sorted(arguments.keys() - known):
        raise unknown("argument of --data", name, known)


def kind_of(path: Path) -> str:
    """Return the class of ``datamodules`` that a file names, or raise a ``UserError``."""
    return data_of_file(Container(path), path)[0]


def data_of(path: Path, arguments: dict[str, Any]) -> InMemoryDataModule:
    """Return the data of a file, with their test images in memory.

    Args:
        path: a ``.subnet`` file, which names its data and their arguments.
        arguments: replace those that the file states, if its data take them. Only these can ask for a download.

    Raises:
        ValueError: if the data are not on this machine.
    """
    kind, stated = data_of_file(Container(path), path)
    build = getattr(datamodules, kind)
    if not issubclass(build, InMemoryDataModule):
        raise UserError(f"{kind} is not held in memory: run lightning test --ckpt_path {shlex.quote(str(path))}")
    try:
        taken = arguments.keys() & signature(build).parameters
        data: InMemoryDataModule = build(**stated | {key: arguments[key] for key in taken})
        data.prepare_data()
        data.setup("test")
    except Exception as error:  # arguments from a file may be of any type
        raise as_user_error(error) from error
    return data


def test_facts(path: Path, data: InMemoryDataModule) -> Test:
    """Test a file's network on all test images, and return the facts.

    Raises:
        ValueError: if the network cannot be built, or does not take the images.
    """
    try:
        return _test_facts(path, data)
    except Exception as error:  # a network of another shape may raise anything
        raise UserError(f"it cannot be tested on {type(data).__name__}: {as_user_error(error)}") from error


@torch.no_grad()
def _test_facts(path: Path, data: InMemoryDataModule) -> Test:
    images, labels = data.test_set
    network = load_subnet(path).double()
    correct = 0
    size = data.batch_size
    batches = list(zip(torch.split(images, size), torch.split(labels, size), strict=True))
    for batch, expected in progress(batches, f"testing {path.name}"):
        correct += int((network(data.normalize(batch).double()).argmax(1) == expected).sum())
    digest = hashlib.sha256(images.contiguous().numpy().tobytes() + labels.numpy().tobytes())
    return Test(
        data=type(data).__name__,
        images=len(labels),
        images_sha256=digest.hexdigest(),
        accuracy=round(correct / len(labels), 6),
    )
