"""The data that a ``.subnet`` file names: a class of this package with its arguments, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_subnets import EdgePopup, mask_, save_subnet
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.datamodules import Digits
from lightning_subnets.errors import UserError
from lightning_subnets.networks import Conv2
from lightning_subnets.run_files import calibration
from lightning_subnets.run_files.saved_config import data_of_file
from lightning_subnets.subnet_file.container import Container

SMALL: dict[str, Any] = {"in_channels": 1, "image_size": 8, "width_multiplier": 0.1}


def file_of(folder: Path, config: dict[str, Any]) -> Container:
    network = mask_(Conv2(**SMALL), EdgePopup(0.5), weights="signed_constant")
    builder = {"class_path": "lightning_subnets.networks.Conv2", "init_args": SMALL}
    save_subnet(network, folder / "small.subnet", network=builder, config=config, force=True)
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
    assert f"small.subnet states the seed {seed!r}, expected 0 to 4294967295: give a config, -c FILE" in error
