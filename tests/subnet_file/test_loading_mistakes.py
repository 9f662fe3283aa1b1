"""A file whose parts do not fit each other is refused, even if its digest is valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_subnets import SMALL, WITH_NORMS, changed, masked, masked_with_norms, saved

import lightning_subnets as ls
from lightning_subnets.subnet_file import load_subnet


def test_weights_that_are_drawn_differently_here_are_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet")
    with changed(path) as (header, _):
        header["weights"]["seed"] += 1
    for as_masked in (False, True):
        with pytest.raises(ls.UserError, match=r"the weights have the digest .* here and .* in the file"):
            load_subnet(path, masked=as_masked)


def test_another_mask_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet", masked(ls.EdgePopup(0.5)))
    with changed(path) as (_, tensors):
        tensors["mask/features.0.weight"][0] ^= (
            0b11000000 if int(tensors["mask/features.0.weight"][0]) >> 6 in (1, 2) else 0b00110000
        )
    with pytest.raises(ls.UserError, match=r"masks have the digest|keeps .* weights instead"):
        load_subnet(path)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("SNIP", {"density": 7}, "the method SNIP.* cannot be created"),
        ("EdgePopup", {}, r"the method EdgePopup\(\{\}\) cannot be created"),
        ("EdgePopup", {"density": 0.4}, "does not give the masks in the file: load the network without masked=True"),
        ("EdgePopup", {"density": 1e-300}, "does not give the masks"),
        ("Dense", {}, "does not give the masks"),
        ("__all__", {}, "the method '__all__' is not one of"),
    ],
)
def test_another_method_is_an_error_for_a_masked_network(
    name: str, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.subnet")
    with changed(path) as (header, _):
        header["method"] = {"name": name, "arguments": arguments}
    load_subnet(path)
    with pytest.raises(ls.UserError, match=message):
        load_subnet(path, masked=True)


def test_a_tensor_that_is_unknown_missing_or_of_another_type_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet", masked_with_norms(), network=WITH_NORMS)
    whole = path.read_bytes()
    for name in ("mask/bn1.weight", "state/conv1.scores", "values/conv1.weight", "x"):
        with changed(path) as (_, tensors):
            tensors[name] = torch.zeros(2)
        with pytest.raises(ls.UserError, match=f"tensor '{name}' belongs to no part of the network"):
            load_subnet(path)
        path.write_bytes(whole)
    for name in ("mask/conv1.weight", "state/bn1.running_mean"):
        with changed(path) as (_, tensors):
            del tensors[name]
        with pytest.raises(ls.UserError, match=f"tensor '{name}' is missing"):
            load_subnet(path)
        path.write_bytes(whole)
    with changed(path) as (_, tensors):
        tensors["state/bn1.running_mean"] = tensors["state/bn1.running_mean"].double()
    with pytest.raises(ls.UserError, match=r"'bn1.running_mean' is torch.float64 .* in the file, and torch.float32"):
        load_subnet(path)


@pytest.mark.parametrize("as_masked", [False, True])
def test_infinite_weights_are_an_error_without_a_warning(as_masked: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet", masked(weights="scaled_kaiming_normal"))
    with changed(path) as (header, _):
        header["weights"]["density"] = header["method"]["arguments"]["density"] = 1e-300
    with pytest.raises(ls.UserError, match="the weights have the digest"):
        load_subnet(path, masked=as_masked)


def test_a_number_of_weights_that_the_mask_does_not_keep_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet", masked(ls.Random(0.3)))
    with changed(path) as (header, tensors):
        header["layers"]["features.0.weight"]["kept"] -= 1
        tensors["values/features.0.weight"] = tensors["values/features.0.weight"][1:].clone()
    with pytest.raises(ls.UserError, match=r"the mask of 'features.0.weight' keeps (\d+) weights instead of \d+"):
        load_subnet(path)


def test_the_name_of_another_network_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet")
    for builder, arguments, message in (
        ("torchvision.models.resnet18", {}, r"more than [\d,]+ numbers, too many for the size of the file"),
        ("os.system", {"command": "true"}, "'os.system' is not a network of"),
        ("lightning_subnets.networks.Conv2", SMALL | {"num_classes": 11}, "the weight 'classifier.5.weight' has shape"),
    ):
        with changed(path) as (header, _):
            header["network"] |= {"builder": builder, "arguments": arguments}
        for as_masked in (False, True):
            with pytest.raises(ls.UserError, match=message):
                load_subnet(path, masked=as_masked)
