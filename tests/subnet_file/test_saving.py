"""The content of a saved file, and networks that cannot be saved."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import timm
import torch
import torchvision
from lightning.fabric import Fabric
from small_subnets import (
    NAMED,
    SMALL,
    WITH_NORMS,
    content,
    differing,
    masked,
    masked_with_norms,
    saved,
    small,
    unmasked,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel

import lightning_subnets as ls
from lightning_subnets.subnet_file import save_subnet
from lightning_subnets.subnet_file.building import unwrapped


class Transformed(ls.EdgePopup):
    """A user's own method, with an argument of any kind."""

    def __init__(self, form: object) -> None:
        super().__init__(0.5)
        self.form = form


def _by_fabric(network: nn.Module) -> nn.Module:
    wrapper: nn.Module = Fabric(accelerator="cpu", devices=1).setup(network)
    return wrapper


def test_saving_changes_neither_the_network_nor_the_random_numbers(tmp_path: Path) -> None:
    for network, name in (
        (masked(ls.IteRand(density=0.3, every=1)), NAMED),
        (masked_with_norms(ls.SNIP(0.3)), WITH_NORMS),
    ):
        before, state = copy.deepcopy(network), torch.get_rng_state()
        save_subnet(network, tmp_path / "a.subnet", network=name, force=True)
        assert not differing(before, network)
        assert network.training
        assert torch.equal(torch.get_rng_state(), state)


def test_a_network_of_timms_factory_is_named_by_its_own_function(tmp_path: Path) -> None:
    network = ls.mask_(timm.create_model("test_vit", num_classes=4), ls.EdgePopup(0.5))
    named = {
        "class_path": "timm.create_model",
        "init_args": {"model_name": "test_vit.r160_in1k", "pretrained": False, "no_jit": None},
        "dict_kwargs": {"num_classes": 4},
    }
    header, _ = content(saved(tmp_path / "a.subnet", network, network=named))
    assert header["network"]["builder"] == "timm.models.test_vit"
    assert header["network"]["arguments"] == {"num_classes": 4}
    assert not differing(ls.load_subnet(tmp_path / "a.subnet"), unmasked(network))


def test_the_header_describes_the_network(tmp_path: Path) -> None:
    details: dict[str, Any] = {
        "classes": ["zero", "one", "zwölf"],
        "accuracy": {"test_accuracy": 0.9},
        "preprocessing": {"input_shape": [1, 8, 8], "mean": [0.5], "std": [0.25]},
        "config": {"trainer": {"max_epochs": 3, "callbacks": [None, True]}},
    }
    network = masked(ls.EdgePopup(density=0.3, absolute=False))
    header, _ = content(saved(tmp_path / "a.subnet", network, **details))
    assert {key: header[key] for key in details} == details
    assert header["network"] == {"builder": NAMED["class_path"], "arguments": NAMED["init_args"], "dtype": "float32"}
    assert header["weights"] == {"distribution": "kaiming_normal", "seed": 3, "density": 0.3}
    assert header["method"]["name"] == "EdgePopup"
    assert header["method"]["arguments"]["absolute"] is False
    assert header["versions"]["torch"] == torch.__version__
    assert header["density"] == ls.density(network)
    assert {name: (layer["shape"], layer["kept"]) for name, layer in header["layers"].items()} == {
        name: (list(mask.shape), int(mask.sum())) for name, mask in ls.masks(network).items()
    }


def test_drawn_weights_take_nothing_and_masks_about_their_entropy(tmp_path: Path) -> None:
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
        (ls.Random(density=0.3), "kaiming_normal", "values"),
        (ls.IteRand(density=0.3, every=1), "kaiming_normal", "values"),
        (ls.IteRand(density=0.3, every=1), "signed_constant", "signs"),
    ],
)
def test_trained_weights_take_the_shortest_form(method: ls.Method, weights: str, form: str, tmp_path: Path) -> None:
    header, _ = content(saved(tmp_path / "a.subnet", masked(method, weights=weights)))
    assert {layer["weights"] for layer in header["layers"].values()} == {form}


def test_neutral_norms_and_biases_are_left_out(tmp_path: Path) -> None:
    frozen, trained = masked_with_norms(), masked_with_norms(ls.Random(0.5), weights="kaiming_normal")
    parameters = {"state/bn1.weight", "state/bn1.bias", "state/fc.bias"}
    for network, expected in ((frozen, set()), (trained, parameters)):
        _, tensors = content(saved(tmp_path / "a.subnet", network, network=WITH_NORMS, force=True))
        assert parameters & tensors.keys() == expected
        assert {"state/bn1.running_mean", "state/bn1.running_var", "state/bn1.num_batches_tracked"} <= tensors.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "torchvision.models.resnet18"}, "resnet18.* does not build this network: class of"),
        ({"network": "lightning_subnets.networks.Conv2"}, "Conv2.* does not build .*: extra_repr of 'features.0'"),
        ({"network": NAMED | {"init_args": SMALL | {"num_classes": 9}}}, "'classifier.5' is .*=10.* instead of .*=9"),
        ({"network": NAMED | {"init_args": {"no_such": 1}}}, "unexpected keyword argument"),
        ({"network": "resnet18"}, "'resnet18' does not name a builder with its package"),
        ({"network": {"name": "torchvision.models.resnet18"}}, "does not name a builder"),
        ({"network": torchvision.models.resnet18}, "does not name a builder"),
        ({"network": {"class_path": 5.5}}, "does not name a builder"),
        ({"network": {"class_path": NAMED["class_path"], "init_args": [1]}}, "does not name a builder"),
        ({"network": "torchvision.models.nothing"}, "torchvision.models has no network"),
        ({"config": {"path": Path()}}, "a .subnet file cannot hold these values"),
        ({"accuracy": {"a": math.nan}}, "a .subnet file cannot hold these values"),
        ({"accuracy": {"a": "good"}}, "a .subnet file cannot hold these values"),
        ({"classes": [0, 1]}, "a .subnet file cannot hold these values"),
        ({"classes": "cat"}, "classes is the string 'cat'"),
        ({"net": small()}, "is not masked"),
        ({"net": masked(Transformed(len))}, r"Transformed.identity\(\) has form = .*len>, .*: override it"),
    ],
    ids=range(17),
)
def test_a_save_that_fails_is_one_error_without_a_file(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ls.UserError, match=message):
        saved(tmp_path / "a.subnet", **options)
    assert not (tmp_path / "a.subnet").exists()


@pytest.mark.parametrize(
    "wrap",
    [torch.compile, nn.DataParallel, AveragedModel, _by_fabric, lambda net: AveragedModel(nn.DataParallel(net))],
    ids=["compile", "parallel", "average", "fabric", "two"],
)
def test_a_wrapper_is_saved_and_loaded_as_the_network_in_it(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    network = masked()
    path = saved(tmp_path / "a.subnet", wrap(network))
    assert not differing(ls.load_subnet(path), unmasked(network))
    for continued in (False, True):
        wrapper = wrap(small())
        assert ls.load_subnet(path, network=wrapper, masked=continued) is wrapper
        assert {module.training for module in wrapper.modules()} == {continued}
        assert not differing(unmasked(unwrapped(wrapper)) if continued else unwrapped(wrapper), unmasked(network))


def test_a_network_with_state_that_is_not_a_tensor_is_refused(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"seen": 3}

        def set_extra_state(self, state: dict[str, int]) -> None:
            raise NotImplementedError

    network = ls.mask_(nn.Sequential(Counting(3, 2)), ls.EdgePopup(0.5))
    with pytest.raises(ls.UserError, match=r"'0._extra_state' of the network is not a tensor"):
        ls.save_subnet(network, tmp_path / "a.subnet", network="my.Network")


@pytest.mark.parametrize("method", [ls.EdgePopup(1.0), ls.Random(1.0), ls.Biprop(1.0)], ids=repr)
def test_weights_that_have_diverged_to_infinity_are_saved(method: ls.Method, tmp_path: Path) -> None:
    network = small()
    with torch.no_grad():
        network.get_parameter("classifier.1.weight").fill_(math.inf)
        network.get_parameter("classifier.3.weight")[:, ::2] = -math.inf
    ls.mask_(network, method, weights=None)
    assert not differing(ls.load_subnet(saved(tmp_path / "a.subnet", network)), unmasked(network))


def test_a_network_of_two_dtypes_is_refused(tmp_path: Path) -> None:
    network = masked()
    network.get_submodule("features.0").double()
    with pytest.raises(ls.UserError, match=r"several dtypes, torch.float32, torch.float64: call net.float\(\)"):
        saved(tmp_path / "a.subnet", network)


def test_arguments_may_be_split_as_in_a_config(tmp_path: Path) -> None:
    arguments = NAMED["init_args"]
    split = {"class_path": NAMED["class_path"], "init_args": {"in_channels": 1}, "dict_kwargs": arguments}
    header, _ = content(saved(tmp_path / "a.subnet", network=split))
    assert header["network"]["arguments"] == arguments


def test_a_tuple_among_the_arguments_is_saved_as_a_list(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"channels": (2, 2, 2, 2, 2), "hidden_units": 2}
    network = ls.mask_(ls.networks.AlexNet(**arguments), ls.EdgePopup(0.5))
    named = {"class_path": "lightning_subnets.networks.AlexNet", "init_args": arguments}
    save_subnet(network, tmp_path / "a.subnet", network=named)
    assert not differing(ls.load_subnet(tmp_path / "a.subnet"), unmasked(network))


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        (ls.EdgePopup(1.0), "signed_constant"),
        (ls.Dense(), "kaiming_normal"),
        (ls.PartiallyFrozen(0.3, frozen=0.9995), "signed_constant"),
    ],
    ids=repr,
)
def test_a_mask_that_takes_almost_no_bytes_can_be_loaded_again(method: ls.Method, weights: str, tmp_path: Path) -> None:
    network = ls.mask_(torch.nn.Linear(4000, 2000, bias=False), method, weights=weights)
    ls.save_subnet(network, tmp_path / "a.subnet", network="my.Network")
    loaded = ls.load_subnet(tmp_path / "a.subnet", network=torch.nn.Linear(4000, 2000, bias=False))
    assert not differing(loaded, ls.unmask_(network))
    assert (tmp_path / "a.subnet").stat().st_size < 8e6 / 4096 + 8


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_a_file_is_padded_to_the_size_that_its_readers_ask_for(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("container", "loading"):
        monkeypatch.setattr(f"lightning_subnets.subnet_file.{module}.NUMBERS_PER_BYTE", limit)
    network = ls.mask_(small(), ls.EdgePopup(1.0), keep_dense=["features.*"])
    path = saved(tmp_path / "a.subnet", network)
    assert not differing(ls.load_subnet(path), ls.unmask_(copy.deepcopy(network)))
    tasks = ls.SupSup(network)
    for name in "abcdef":
        tasks.add(name)
    tasks.save(path, network=NAMED, force=True)
    assert ls.SupSup.load(path).names == tasks.names


@pytest.mark.parametrize("weights", ["signed_constant", "scaled_signed_constant"])
@pytest.mark.parametrize("allocation", ["erk", "smart_ratio"])
def test_a_network_with_an_empty_weight_is_diagnosed_saved_and_restored(
    allocation: Literal["erk", "smart_ratio"], weights: str, tmp_path: Path
) -> None:
    def mlp() -> nn.Sequential:
        sizes = [(200, 100), (100, 2), (2, 10)]
        return nn.Sequential(*(nn.Linear(*size) for size in sizes))

    network = ls.mask_(mlp(), ls.EdgePopup(5e-4, allocation=allocation), weights=weights)
    empty = [name for name, share in ls.density(network, per_weight=True).items() if not share]
    assert empty
    assert ls.diagnose(network, (200,)).empty == empty
    save_subnet(network, tmp_path / "a.subnet", network="my.MLP")
    restored = ls.load_subnet(tmp_path / "a.subnet", network=mlp(), masked=True)
    assert all(torch.equal(mask, ls.masks(restored)[name]) for name, mask in ls.masks(network).items())
    for name, each in ls.masked_weights(restored).items():
        assert torch.equal(each.weight, ls.masked_weights(network)[name].weight)
