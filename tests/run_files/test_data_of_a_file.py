"""The data that a ``.subnet`` file names: a class of this package with its arguments, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_subnets import EdgePopup, mask_, save_subnet
from lightning_subnets.commands import calibration
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.datamodules import Digits
from lightning_subnets.errors import UserError
from lightning_subnets.networks import Conv2, ResNet20
from lightning_subnets.run_files.saved_config import data_of_file, with_config_of_checkpoint
from lightning_subnets.subnet_file.container import Container

SMALL: dict[str, Any] = {"in_channels": 1, "image_size": 8, "width_multiplier": 0.1}


def file_of(folder: Path, config: dict[str, Any], preprocessing: dict[str, Any] | None = None) -> Container:
    network = mask_(Conv2(**SMALL), EdgePopup(0.5), weights="signed_constant")
    builder = {"class_path": "lightning_subnets.networks.Conv2", "init_args": SMALL}
    details: dict[str, Any] = {"config": config, "preprocessing": preprocessing}
    save_subnet(network, folder / "small.subnet", network=builder, **details)
    return Container(folder / "small.subnet")


@pytest.mark.parametrize(
    "name",
    [
        "Digits",
        "lightning_subnets.Digits",
        "lightning_subnets.datamodules.Digits",
        "lightning_subnets.datamodules.digits.Digits",
    ],
)
def test_every_name_of_a_class_of_this_package_names_it(name: str, tmp_path: Path) -> None:
    file = file_of(tmp_path, {"data": {"class_path": name, "init_args": {"batch_size": 3}}})
    assert data_of_file(file, "small.subnet") == ("Digits", {"batch_size": 3, "seed": 0})


def test_an_evaluation_takes_no_batches_as_large_as_a_file_likes(tmp_path: Path) -> None:
    file = file_of(tmp_path, {"data": {"class_path": "Digits", "init_args": {"batch_size": 10**9}}})
    assert data_of_file(file, "small.subnet") == ("Digits", {"batch_size": 8192, "seed": 0})


@pytest.mark.parametrize("name", ["mydata.Digits", "datamodules.Digits", "lightning_subnets.datamodules.cifar.Digits"])
def test_a_class_of_ones_own_is_not_that_of_this_package_of_the_same_name(name: str, tmp_path: Path) -> None:
    file = file_of(tmp_path, {"data": {"class_path": name, "init_args": {}}})
    with pytest.raises(UserError, match=r"small\.subnet does not say which data of this package it is for: give a c"):
        data_of_file(file, "small.subnet")


def test_the_images_held_out_are_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"class_path": "Digits", "init_args": {"validation_fraction": 0.3}}
    file = file_of(tmp_path, {"data": data, "seed_everything": 5})
    split, found = Digits.split, []

    def record(self: Digits) -> tuple[torch.Tensor, torch.Tensor]:
        found.append(split(self))
        return found[-1]

    monkeypatch.setattr(Digits, "split", record)
    lightning(["validate", f"--ckpt_path={tmp_path}/small.subnet", "--trainer.accelerator=cpu"])
    calibration.of_file(file, "small.subnet")
    run = Digits(validation_fraction=0.3, seed=5)
    run.setup("fit")
    trained_on, held_out = split(run)
    assert len(found) >= 2
    assert all(torch.equal(each[0], trained_on) and torch.equal(each[1], held_out) for each in found)


@pytest.mark.parametrize("seed", [-1, 2**32, True, 1.0, "5", [0], None])
def test_a_seed_that_is_none_is_refused(seed: Any, tmp_path: Path, mistake: Callable[..., str]) -> None:
    file_of(tmp_path, {"data": {"class_path": "Digits"}, "seed_everything": seed})
    error = mistake(["test", f"--ckpt_path={tmp_path}/small.subnet"])
    assert f"small.subnet states seed = {seed!r}, expected 0 to 4294967295: give a config, -c FILE" in error


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("Digits", {"image_size": 3000}, "image_size = 3000, expected 0 to 256"),
        ("Digits", {"image_size": "3000"}, "image_size = '3000', expected 0 to 256"),
        ("Digits", {"image_size": 3e3}, "image_size = 3000.0, expected 0 to 256"),
        ("ImageFolder", {"image_size": 2049}, "image_size = 2049, expected 0 to 2048"),
    ],
)
def test_a_file_does_not_decide_how_much_memory_its_images_take(
    kind: str, arguments: dict[str, Any], message: str, tmp_path: Path, mistake: Callable[..., str]
) -> None:
    file_of(tmp_path, {"data": {"class_path": kind, "init_args": arguments}})
    assert message in mistake(["test", f"--ckpt_path={tmp_path}/small.subnet"])


def test_the_size_of_training_images_is_not_taken_from_a_file(tmp_path: Path) -> None:
    arguments = {"image_size": 64, "train_size": {"first": 10**6}}
    file = file_of(tmp_path, {"data": {"class_path": "ImageFolder", "init_args": arguments}})
    assert data_of_file(file, "small.subnet") == ("ImageFolder", {"image_size": 64, "seed": 0})


@pytest.mark.parametrize("shape", [[2048, 2048, 2048], [5, 2048, 2048]])
def test_an_implausible_shape_of_images_is_none(shape: list[int], tmp_path: Path, mistake: Callable[..., str]) -> None:
    file = file_of(tmp_path, {}, preprocessing={"input_shape": shape})
    assert file.header.image_shape is None
    subnets(["inspect", f"{tmp_path}/small.subnet"])
    error = mistake(["export", f"{tmp_path}/small.subnet", f"{tmp_path}/net.onnx"], subnets)
    assert "the shape of an image is unknown: set it" in error


def test_inspecting_a_file_takes_no_images_as_large_as_it_likes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = mask_(ResNet20(width_multiplier=0.25), EdgePopup(0.5))
    builder = {"class_path": "lightning_subnets.networks.ResNet20", "init_args": {"width_multiplier": 0.25}}
    path = tmp_path / "large.subnet"
    save_subnet(network, path, network=builder, preprocessing={"input_shape": [3, 2048, 2048]})
    subnets(["inspect", str(path)])
    assert "no paths: the file states images of 3x2048x2048: set --input_shape" in capsys.readouterr().out
    subnets(["inspect", str(path), "--input_shape=[3,8,8]"])
    assert "paths from inputs to outputs" in capsys.readouterr().out


@pytest.mark.parametrize(("stated", "used"), [(0.1, 0.1), (7.0, 0.0), ("x", 0.0), (None, 0.0)])
def test_a_file_is_evaluated_with_the_loss_of_its_run(stated: Any, used: float, tmp_path: Path) -> None:
    file_of(tmp_path, {"data": {"class_path": "Digits"}, "model": {"label_smoothing": stated}})
    arguments = with_config_of_checkpoint(["test", "--ckpt_path", str(tmp_path / "small.subnet")])
    assert json.loads(arguments[2])["model"]["label_smoothing"] == used
