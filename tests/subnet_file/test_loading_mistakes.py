"""A file whose parts do not belong together is refused, though its digest is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_subnets import WITH_NORMS, changed, masked, masked_with_norms, saved

import lightning_subnets as ls
from lightning_subnets.subnet_file import load_subnet


def test_weights_that_are_drawn_otherwise_here_are_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet")
    with changed(path) as (header, _):
        header["weights"]["seed"] += 1
    for as_masked in (False, True):
        with pytest.raises(
            ls.UserError, match=r"its weights have the digest .* here and .* in the file: they were drawn by"
        ):
            load_subnet(path, masked=as_masked)


def test_another_mask_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet", masked(ls.EdgePopup(0.5)))
    with changed(path) as (_, tensors):
        tensors["mask/features.0"][0] ^= 0b11000000 if int(tensors["mask/features.0"][0]) >> 6 in (1, 2) else 0b00110000
    with pytest.raises(ls.UserError, match=r"masks have the digest|keeps .* weights and not"):
        load_subnet(path)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "SNIP", "arguments": {"density": 7}}, "its method cannot be made"),
        ({"name": "EdgePopup", "arguments": {}}, r"its method cannot be made, EdgePopup\(\{\}\)"),
        ({"name": "EdgePopup", "arguments": {"density": 0.4}}, "does not give its masks: load it without masked"),
        ({"name": "EdgePopup", "arguments": {"density": 1e-300}}, "does not give its masks"),
        ({"name": "Dense", "arguments": {}}, "does not give its masks"),
        ({"name": "Method", "arguments": {}}, "of the method 'Method', not one of"),
        ({"name": "__all__", "arguments": {}}, "of the method '__all__', not one of"),
    ],
)
def test_another_method_is_an_error_where_it_matters(method: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet")
    with changed(path) as (header, _):
        header["method"] = method
    load_subnet(path)
    with pytest.raises(ls.UserError, match=message):
        load_subnet(path, masked=True)


def test_a_tensor_too_many_or_too_few_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet", masked_with_norms(), network=WITH_NORMS)
    whole = path.read_bytes()
    for name in ("mask/bn1", "state/conv1.scores", "values/conv1", "x"):
        with changed(path) as (_, tensors):
            tensors[name] = torch.zeros(2)
        with pytest.raises(ls.UserError, match=f"it has '{name}', which belongs to nothing"):
            load_subnet(path)
        path.write_bytes(whole)
    for name in ("mask/conv1", "state/bn1.running_mean", "state/bn1.num_batches_tracked"):
        with changed(path) as (_, tensors):
            del tensors[name]
        with pytest.raises(ls.UserError, match=f"it has no '{name}'"):
            load_subnet(path)
        path.write_bytes(whole)
    with changed(path) as (_, tensors):
        tensors["state/bn1.running_mean"] = tensors["state/bn1.running_mean"].double()
    with pytest.raises(ls.UserError, match=r"its 'bn1.running_mean' is .* of torch.float64, and that of its network"):
        load_subnet(path)


@pytest.mark.parametrize("as_masked", [False, True])
def test_weights_too_large_for_their_type_are_an_error_without_a_warning(as_masked: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet", masked(weights="scaled_kaiming_normal"))
    with changed(path) as (header, _):
        header["weights"]["density"] = header["method"]["arguments"]["density"] = 1e-300
    with pytest.raises(ls.UserError, match="its weights have the digest"):
        load_subnet(path, masked=as_masked)


def test_fewer_or_more_weights_than_the_mask_keeps_are_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet", masked(ls.Random(0.3)))
    with changed(path) as (header, tensors):
        header["layers"]["features.0"]["kept"] -= 1
        tensors["values/features.0"] = tensors["values/features.0"][1:].clone()
    with pytest.raises(ls.UserError, match=r"the mask of 'features.0' keeps (\d+) weights and not \d+"):
        load_subnet(path)


def test_a_network_too_large_for_its_file_is_not_built(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet")
    with changed(path) as (header, _):
        header["network"] |= {"builder": "torchvision.models.resnet18", "arguments": {}}
    numbers = f"{4096 * path.stat().st_size:,}"
    with pytest.raises(ls.UserError, match=f"larger than the file can be of, more than {numbers} numbers"):
        load_subnet(path)
