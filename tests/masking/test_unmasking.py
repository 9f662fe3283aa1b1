"""An unmasked network is a plain one with the mask in its weights, and a copy is a masked network of its own."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from masked_networks import IMAGES, masked_network, small_network
from torch import nn

from lightning_subnets import (
    DNW,
    Dense,
    EdgePopup,
    Magnitude,
    Method,
    SignedSupermask,
    Supermask,
    invalidate_,
    load_subnet,
    mask_,
    masked_weights,
    masks,
    save_subnet,
    unmask_,
)
from lightning_subnets.masking import is_masked
from lightning_subnets.masking.masked_class import effective_weight


def test_an_unmasked_resnet_is_a_plain_one_with_the_same_logits() -> None:
    network = mask_(torchvision.models.resnet18(), EdgePopup(0.3), weights="kaiming_normal")
    images = torch.randn(2, 3, 32, 32)
    network(images)  # gives it running statistics of its own
    logits = network.eval()(images)
    assert unmask_(network) is network
    stock = torchvision.models.resnet18()
    stock.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(network(images), logits)
    assert torch.equal(stock.eval()(images), logits)


@pytest.mark.parametrize("method", [EdgePopup(0.3), Dense()], ids=lambda method: type(method).__name__)
def test_nothing_of_the_package_is_left_in_an_unmasked_network(method: EdgePopup | Dense) -> None:
    fresh, network = small_network(), mask_(small_network(), method)
    network(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        unmask_(network)
    assert repr(network) == repr(fresh)
    assert list(network.state_dict()) == list(fresh.state_dict())
    assert all(parameter.requires_grad for parameter in network.parameters())
    for ours, plain in zip(network.modules(), fresh.modules(), strict=True):
        assert type(ours) is type(plain)
        assert vars(ours).keys() == vars(plain).keys()
        assert ours._parameters.keys() == plain._parameters.keys()


def test_networks_that_share_a_module_are_trainable_again() -> None:
    shared = nn.BatchNorm1d(4)
    first, second = (nn.Sequential(nn.Linear(4, 4), shared) for _ in range(2))
    for network in (first, second):
        mask_(network, EdgePopup(0.5))
    for network in (first, second):
        unmask_(network)
        assert all(parameter.requires_grad for parameter in network.parameters())


def test_an_unmasked_network_has_exactly_the_kept_weights_and_can_be_masked_again() -> None:
    network = masked_network()
    kept = masks(network)
    unmask_(network)
    for name, mask in kept.items():
        assert torch.equal(network.get_parameter(name) != 0, mask)
    assert masks(mask_(network, EdgePopup(0.4))).keys() == kept.keys()


def test_a_copy_computes_the_same_and_changes_by_itself() -> None:
    network = masked_network().eval()
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), torch.load(file, weights_only=False)):
        assert list(masked_weights(other)) == ["0.weight", "3.weight", "6.weight"]
        assert torch.equal(other(IMAGES), network(IMAGES))
        with torch.no_grad():
            other.get_parameter("6.scores").neg_().sub_(1.0)
        assert not torch.equal(other(IMAGES), network(IMAGES))
        assert type(unmask_(other).get_submodule("0")) is nn.Conv2d


VIEWS: dict[str, Callable[[nn.Sequential], list[nn.Module]]] = {
    "the network": lambda network: [network],
    "a module around it": lambda network: [nn.Sequential(nn.Identity(), nn.ModuleDict({"inner": network}))],
    "a compiled network": lambda network: [torch.compile(network)],  # type: ignore[list-item]
    "its parts": lambda network: [network[:3], network[3:]],
}


@pytest.mark.parametrize("method", [EdgePopup(0.3), Supermask(0.3), Dense()], ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("frozen", [(), ("0.bias", "1.weight", "6.weight")], ids=["none frozen", "some frozen"])
def test_unmasking_through_any_module_gives_back_what_was_trained(
    frozen: tuple[str, ...], view: str, method: Method
) -> None:
    network = small_network()
    for name in frozen:
        network.get_parameter(name).requires_grad_(False)
    mask_(network, method)
    for each in VIEWS[view](network):
        assert unmask_(each) is each
    assert [name for name, each in network.named_parameters() if not each.requires_grad] == [*frozen]
    for module in network.modules():
        assert "_trained_before_masking" not in vars(module) or view == "its parts"
        assert not module._forward_pre_hooks or view == "its parts"


@pytest.mark.parametrize("copied", [False, True])
def test_norms_that_were_converted_since_are_trainable_again(copied: bool) -> None:
    network = nn.Sequential(small_network(), nn.BatchNorm1d(5))
    network.get_parameter("1.bias").requires_grad_(False)
    mask_(network, EdgePopup(0.3))
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    if copied:
        network = copy.deepcopy(network)
    assert isinstance(unmask_(network).get_submodule("0.1"), nn.SyncBatchNorm)
    assert [name for name, each in network.named_parameters() if not each.requires_grad] == ["1.bias"]


@pytest.mark.parametrize("before", [False, True], ids=["", "masked before and unmasked in parts"])
@pytest.mark.parametrize("method", [Dense(), Magnitude(0.5), DNW(0.5)], ids=repr)
def test_what_the_user_froze_since_stays_frozen(method: Method, before: bool) -> None:
    network = small_network()
    if before:
        mask_(network, EdgePopup(0.5))
        for part in network.children():
            if is_masked(part):
                unmask_(part)
        network.requires_grad_(True)
    mask_(network, method)
    for parameter in network[:3].parameters():
        parameter.requires_grad_(False)
    unmask_(network)
    names = [name for name, each in network.named_parameters() if not each.requires_grad]
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_norms_that_only_masking_trained_are_frozen_again() -> None:
    network = small_network()
    network[1].requires_grad_(False)
    mask_(network, EdgePopup(0.3), norms="trained")
    assert network.get_parameter("1.weight").requires_grad
    unmask_(network)
    assert [name for name, each in network.named_parameters() if not each.requires_grad] == ["1.weight", "1.bias"]


@pytest.mark.parametrize("index", [0, 3, 6])
def test_unmasking_leaves_what_was_not_masked(index: int) -> None:
    network = small_network()
    others = [each for place in (0, 1, 3, 6) if place != index for each in network[place].parameters()]
    for parameter in others:
        parameter.requires_grad_(False)
    mask_(network[index], EdgePopup(0.5))
    network.append(nn.Linear(5, 5).requires_grad_(False))  # added since, and frozen by the user
    unmask_(network)
    assert not any(each.requires_grad for each in (*others, *network[7].parameters()))
    assert all(each.requires_grad for each in network[index].parameters())


@pytest.mark.parametrize(
    "method",
    [EdgePopup(0.4), EdgePopup(0.4, allocation="global"), SignedSupermask(0.5), DNW(0.4), Magnitude(0.4), Dense()],
    ids=repr,
)
def test_layers_that_no_longer_share_a_weight_are_unmasked_each_with_its_own(method: Method, tmp_path: Path) -> None:
    def shared() -> nn.Sequential:
        network = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        network[4].weight = network[2].weight = network[0].weight
        return network

    network, x = mask_(shared(), method, weights="kaiming_normal"), torch.randn(3, 6)
    state = {key: torch.randn_like(each) for key, each in network.state_dict().items() if each.is_floating_point()}
    network.load_state_dict(network.state_dict() | state, assign=True)
    outputs, found = network(x), masks(network)
    assert list(found) == ["0.weight", "2.weight", "4.weight"]
    for name, each in masked_weights(network).items():
        assert torch.equal(effective_weight(each) != 0, found[name])
    save_subnet(network, tmp_path / "a.subnet", network="my.Network")
    apart = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    assert torch.equal(load_subnet(tmp_path / "a.subnet", network=apart)(x), outputs)
    assert torch.equal(unmask_(network)(x), outputs)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_deep_network_with_one_ranking_can_be_copied(copied: Callable[[nn.Module], nn.Module]) -> None:
    network = mask_(nn.Sequential(*(nn.Linear(2, 2) for _ in range(150))), EdgePopup(0.5, allocation="global"))
    twin = copied(network)
    assert torch.equal(twin(torch.ones(1, 2)), network(torch.ones(1, 2)))
    assert masked_weights(twin)["3.weight"].global_group[5].module is twin.get_submodule("5")


def test_a_change_in_place_returns_the_network_in_its_own_type() -> None:
    def changed(layer: nn.Linear) -> nn.Linear:
        return unmask_(invalidate_(mask_(layer, EdgePopup(0.5))))

    layer = nn.Linear(4, 4)
    assert changed(layer) is layer
