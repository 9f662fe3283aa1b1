"""A subnetwork of edge-popup's public code is the same network here."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from public_code import ScoredConv, publicly_, save_checkpoint
from torch import Tensor, nn
from torchvision import models

import lightning_subnets as ls
from lightning_subnets.interop.importing import import_subnet_
from lightning_subnets.networks import Conv2
from lightning_subnets.networks.small_stem import small_stem_


def plain_copy(network: nn.Module) -> nn.Module:
    return ls.unmask_(copy.deepcopy(network)).eval()


def small_resnet(block: Any = models.resnet.BasicBlock) -> models.ResNet:
    return models.ResNet(block, [1, 1, 1, 1], num_classes=10)


@torch.no_grad()
def assert_same_logits(ours: nn.Module, theirs: nn.Module, size: int = 64) -> None:
    images = torch.randn(4, 3, size, size)
    expected = theirs(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", [models.resnet.BasicBlock, models.resnet.Bottleneck])
def test_a_public_checkpoint_gives_equal_logits_in_plain_torchvision(block: Any, tmp_path: Path) -> None:
    bottlenecks = block is models.resnet.Bottleneck
    theirs = publicly_(small_resnet(block), 0.3, affine=bottlenecks)
    save_checkpoint(theirs, tmp_path / "public.pth", zipped=bottlenecks)
    network = import_subnet_(tmp_path / "public.pth", small_resnet(block), density=0.3)
    plain = small_resnet(block).eval()
    plain.load_state_dict(plain_copy(network).state_dict())
    assert_same_logits(plain, theirs)
    weights = ls.masked_weights(network)
    assert {each.origin for each in weights.values()} == {None}
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {f"{name.removesuffix('.weight')}.scores" for name in weights}


def test_the_public_number_is_kept_and_everything_the_file_lacks_becomes_neutral(tmp_path: Path) -> None:
    theirs = publicly_(small_resnet(), 0.29)
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "state.pt")
    trained = small_resnet()
    for value in trained.state_dict().values():
        value.fill_(3)
    network = import_subnet_(tmp_path / "state.pt", trained, density=0.29)
    assert_same_logits(plain_copy(network), theirs)
    assert int(network.state_dict()["bn1.num_batches_tracked"]) == 0
    for mask in ls.masks(network).values():
        assert int(mask.sum()) == mask.numel() - int((1 - 0.29) * mask.numel())


def test_the_first_of_tied_scores_are_kept(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 4), "scores": torch.tensor([[0.5, 0.5, 0.5, 0.25], [-0.5, 1.0, 0.5, 0.0]])}
    torch.save({f"0.{key}": value for key, value in state.items()}, tmp_path / "ties.pt")
    network = import_subnet_(tmp_path / "ties.pt", nn.Sequential(nn.Linear(4, 2, bias=False)), density=0.5)
    mask = next(iter(ls.masked_weights(network).values())).mask()
    assert mask.tolist() == [[True, True, True, False], [False, True, False, False]]


class PublicConv(nn.Module):
    """Conv2 with the public code's names, and with 1x1 convolutions instead of linear layers."""

    def __init__(self, network: Conv2) -> None:
        super().__init__()
        self.convs = network.features
        self.linear = nn.Sequential(*list(network.classifier)[1:])
        publicly_(self, 0.5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.convs(images).flatten(1))
        return logits


def test_layer_names_of_the_public_conv_networks_are_understood(tmp_path: Path) -> None:
    theirs = PublicConv(Conv2(width_multiplier=0.25))
    assert theirs.state_dict()["linear.0.weight"].dim() == 4
    save_checkpoint(theirs, tmp_path / "public.pth")
    network = import_subnet_(tmp_path / "public.pth", Conv2(width_multiplier=0.25), density=0.5)
    assert_same_logits(plain_copy(network), theirs, size=32)


def test_layer_names_of_the_public_cifar_resnets_are_understood(tmp_path: Path) -> None:
    theirs = publicly_(small_stem_(small_resnet()), 0.5)
    state = {key.replace(".downsample.", ".shortcut."): value for key, value in theirs.state_dict().items()}
    assert "layer2.0.shortcut.0.scores" in state
    torch.save({"state_dict": state}, tmp_path / "public.pth")
    network = import_subnet_(tmp_path / "public.pth", small_stem_(small_resnet()), density=0.5)
    assert_same_logits(plain_copy(network), theirs, size=32)


def test_scores_of_zeros_and_ones_are_imported_as_a_mask(tmp_path: Path) -> None:
    theirs = publicly_(small_resnet(), 0.3, affine=True)
    for module in theirs.modules():
        if isinstance(module, ScoredConv):
            module.scores.data = (torch.rand_like(module.scores) < 0.7).float()
            module.weight.data.mul_(module.scores.data)
            module.density = 1.0
    torch.save(theirs.state_dict(), tmp_path / "fixed.pt")
    network = import_subnet_(tmp_path / "fixed.pt", small_resnet())
    assert_same_logits(plain_copy(network), theirs)
    assert torch.equal(ls.masks(network)["fc.weight"], theirs.state_dict()["fc.scores"].flatten(1) == 1)
    assert network.get_parameter("bn1.weight").requires_grad
    assert ls.masked_weights(network)["fc.weight"].weight.requires_grad


def test_the_state_of_a_masked_network_of_ours_can_be_imported(tmp_path: Path) -> None:
    ours = ls.mask_(small_resnet(), ls.EdgePopup(0.3), weights="kaiming_normal", seed=3)
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    again = import_subnet_(tmp_path / "ours.pt", small_resnet(), density=0.3)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())
