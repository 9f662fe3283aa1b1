"""What is saved of a network, and what cannot be."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from small_subnets import NAMED, SMALL, WITH_NORMS, content, differing, masked, masked_with_norms, saved, small
from torch import nn

import lightning_subnets as ls
from lightning_subnets.subnet_file import load_subnet, save_subnet
from lightning_subnets.subnet_file.network import difference


def layers(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = content(path)[0]["layers"]
    return found


def test_a_network_is_as_it_was_after_it_is_saved(tmp_path: Path) -> None:
    for network, name in (
        (masked(ls.IteRand(density=0.3, every=1)), NAMED),
        (masked_with_norms(ls.SNIP(0.3)), WITH_NORMS),
    ):
        before, state = copy.deepcopy(network), torch.get_rng_state()
        save_subnet(network, tmp_path / "a.subnet", network=name, force=True)
        assert not differing(before, network)
        assert network.training
        assert torch.equal(torch.get_rng_state(), state)


def test_the_header_says_what_the_network_is(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "classes": ["zero", "one", "zwölf"],
        "accuracy": {"test_accuracy": 0.9},
        "preprocessing": {"input_shape": [1, 8, 8], "mean": [0.5], "std": [0.25]},
        "config": {"trainer": {"max_epochs": 3, "callbacks": [None, True]}},
    }
    network = masked(ls.EdgePopup(density=0.3, absolute=False))
    header, _ = content(saved(tmp_path / "a.subnet", network, **more))
    assert {key: header[key] for key in more} == more
    assert header["network"] == {"builder": NAMED["class_path"], "arguments": NAMED["init_args"], "dtype": "float32"}
    assert header["weights"] == {"distribution": "kaiming_normal", "seed": 3, "density": 0.3}
    assert header["method"]["name"] == "EdgePopup"
    assert header["method"]["arguments"]["absolute"] is False
    assert header["versions"]["torch"] == torch.__version__
    assert header["density"] == ls.density(network)
    assert list(header["layers"]) == [name for name, _ in ls.masked_layers(network)]
    for name, layer in ls.masked_layers(network):
        assert header["layers"][name]["kept"] == int(layer.mask().sum())
        assert header["layers"][name]["shape"] == list(layer.weight.shape)


def test_weights_of_a_seed_take_nothing_and_a_mask_about_its_entropy(tmp_path: Path) -> None:
    network = ls.mask_(torchvision.models.resnet18(), ls.EdgePopup(density=0.3), seed=1)
    save_subnet(network, tmp_path / "a.subnet")
    header, tensors = content(tmp_path / "a.subnet")
    masks = sum(each.numel() for name, each in tensors.items() if name.startswith("mask/"))
    entropy = -0.3 * math.log2(0.3) - 0.7 * math.log2(0.7)
    weights = sum(math.prod(layer["shape"]) for layer in header["layers"].values())
    assert masks * 8 / weights < 1.01 * entropy
    assert {name.partition("/")[0] for name in tensors} == {"mask", "state"}
    assert header["network"]["builder"] == "torchvision.models.resnet18"


@pytest.mark.parametrize(
    ("method", "weights", "form"),
    [
        (ls.EdgePopup(density=0.3), "signed_constant", "drawn"),
        (ls.Random(density=0.3), "kaiming_normal", "values"),
        (ls.IteRand(density=0.3, every=1), "kaiming_normal", "values"),
        (ls.IteRand(density=0.3, every=1), "signed_constant", "signs"),
    ],
)
def test_weights_are_written_down_as_briefly_as_they_can_be(
    method: ls.Method, weights: str, form: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.subnet", masked(method, weights=weights))
    assert {layer["weights"] for layer in layers(path).values()} == {form}


def test_what_is_trained_beside_the_weights_is_written_down_and_what_is_neutral_is_not(tmp_path: Path) -> None:
    frozen, trained = masked_with_norms(), masked_with_norms(ls.Random(0.5), weights="kaiming_normal")
    for network, norms in ((frozen, False), (trained, True)):
        save_subnet(network, tmp_path / "a.subnet", network=WITH_NORMS, force=True)
        names = content(tmp_path / "a.subnet")[1].keys()
        assert ("state/bn1.weight" in names, "state/bn1.bias" in names, "state/fc.bias" in names) == (
            norms,
            norms,
            norms,
        )
        assert {"state/bn1.running_mean", "state/bn1.running_var", "state/bn1.num_batches_tracked"} <= names


@pytest.mark.parametrize("density", [0.0005, 1.0])
def test_a_mask_of_hardly_anything_or_of_all_loads_again(density: float, tmp_path: Path) -> None:
    network = ls.mask_(torchvision.models.shufflenet_v2_x0_5(), ls.EdgePopup(density=density))
    save_subnet(network, tmp_path / "a.subnet")
    load_subnet(tmp_path / "a.subnet", masked=True)


def test_a_plain_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ls.UserError, match="is not masked"):
        saved(tmp_path / "a.subnet", small())
    assert not (tmp_path / "a.subnet").exists()


def test_a_network_of_two_types_is_refused(tmp_path: Path) -> None:
    network = masked()
    network.get_submodule("features.0").double()
    with pytest.raises(ls.UserError, match=r"of several types, torch.float32, torch.float64: net.float\(\)"):
        saved(tmp_path / "a.subnet", network)


def test_a_network_that_nobody_knows_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(ls.UserError, match=r"no function of torchvision.models builds this Conv2: name what does"):
        save_subnet(masked(), tmp_path / "a.subnet")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("torchvision.models.resnet18", "resnet18.* does not build this network: the class of"),
        ("lightning_subnets.networks.Conv2", "Conv2.* does not build this network: the description of 'features.0'"),
        (NAMED | {"init_args": SMALL | {"num_classes": 9}}, "'classifier.5' is .*=10.* and would be .*=9"),
        (NAMED | {"init_args": {"no_such": 1}}, "unexpected keyword argument"),
        ("resnet18", "is no name with its package: 'torchvision.models.resnet18' say"),
        ({"name": "torchvision.models.resnet18"}, "is no name with its package"),
        (torchvision.models.resnet18, "is no name with its package"),
        ("torchvision.models.nothing", "torchvision.models has no network"),
    ],
)  # fmt: skip
def test_a_name_that_builds_something_else_is_refused(network: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ls.UserError, match=message):
        saved(tmp_path / "a.subnet", network=network)
    assert not (tmp_path / "a.subnet").exists()


@pytest.mark.parametrize(
    "more",
    [
        {"config": {"path": Path()}},
        {"accuracy": {"a": math.nan}},
        {"accuracy": {"a": "good"}},
        {"preprocessing": {"x": nn}},
        {"classes": [0, 1]},
    ],
)
def test_what_is_no_plain_value_is_refused(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ls.UserError, match=r"cannot be written into a .subnet file"):
        saved(tmp_path / "a.subnet", **more)
    assert not (tmp_path / "a.subnet").exists()


def test_arguments_may_stand_apart_as_in_a_config(tmp_path: Path) -> None:
    arguments = NAMED["init_args"]
    apart = {"class_path": NAMED["class_path"], "init_args": {"in_channels": 1}, "dict_kwargs": arguments}
    header, _ = content(saved(tmp_path / "a.subnet", network=apart))
    assert header["network"]["arguments"] == arguments


def test_what_two_networks_differ_in_is_named() -> None:
    assert difference(small(), ls.mask_(small(), ls.EdgePopup(density=0.5))) is None
    stem = torchvision.models.resnet18()
    stem.conv1.stride = (1, 1)
    assert "description of 'conv1'" in str(difference(torchvision.models.resnet18(), stem))
    dropping = torchvision.models.densenet121(drop_rate=0.5)
    assert "drop_rate of 'features.denseblock1.denselayer1' is 0.5 and would be 0.0" in str(
        difference(torchvision.models.densenet121(), dropping)
    )
    named = small()
    named.remark = "mine"  # type: ignore[assignment]
    assert difference(small(), named) is None
    assert "no module '1'" in str(difference(nn.Sequential(nn.ReLU(), nn.ReLU()), nn.Sequential(nn.ReLU())))
    assert "class" in str(difference(nn.Identity(), nn.ReLU()))
    assert "'1' too" in str(difference(nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU(), nn.ReLU())))
