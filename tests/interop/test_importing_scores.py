"""A subnetwork of edge-popup's public code is the same network here."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from public_code import ScoredClassifier, ScoredConv, publicly_, save_checkpoint
from torch import Tensor, nn
from torchvision import models

import lightning_subnets as ls
from lightning_subnets.interop.importing import import_subnet_
from lightning_subnets.networks import Conv2, Conv8
from lightning_subnets.networks.small_stem import small_stem_


def plain_copy(network: nn.Module) -> nn.Module:
    return ls.unmask_(copy.deepcopy(network)).eval()


def small_resnet() -> models.ResNet:
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)


@torch.no_grad()
def assert_same_logits(ours: nn.Module, theirs: nn.Module, images: Tensor) -> None:
    expected = theirs(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)


def test_the_public_checkpoint_of_a_resnet_gives_equal_logits_in_plain_torchvision(tmp_path: Path) -> None:
    theirs = publicly_(models.resnet18(num_classes=10), 0.3)
    save_checkpoint(theirs, tmp_path / "public.pth")
    network = import_subnet_(tmp_path / "public.pth", models.resnet18(num_classes=10), density=0.3)
    plain = models.resnet18(num_classes=10).eval()
    plain.load_state_dict(plain_copy(network).state_dict())
    assert_same_logits(plain, theirs, torch.randn(4, 3, 64, 64))
    assert {layer.origin for _, layer in ls.masked_layers(network)} == {None}
    assert {name for name, each in network.named_parameters() if each.requires_grad} == {
        f"{name}.scores" for name, _ in ls.masked_layers(network)
    }


def test_bottlenecks_and_learned_norms_give_equal_logits(tmp_path: Path) -> None:
    def build() -> models.ResNet:
        return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10)

    theirs = publicly_(build(), 0.5, affine=True)
    save_checkpoint(theirs, tmp_path / "public.pth", zipped=True)
    network = import_subnet_(tmp_path / "public.pth", build(), density=0.5)
    assert_same_logits(plain_copy(network), theirs, torch.randn(4, 3, 64, 64))


def test_what_the_file_lacks_is_neutral_whatever_the_network_had(tmp_path: Path) -> None:
    theirs = publicly_(small_resnet(), 0.3)
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "state.pt")
    trained = small_resnet()
    for value in trained.state_dict().values():
        value.fill_(3)
    network = import_subnet_(tmp_path / "state.pt", trained, density=0.3)
    assert_same_logits(plain_copy(network), theirs, torch.randn(4, 3, 64, 64))
    assert int(network.state_dict()["bn1.num_batches_tracked"]) == 0


def test_the_number_kept_is_that_of_the_public_code(tmp_path: Path) -> None:
    theirs = publicly_(small_resnet(), 0.29)
    torch.save(theirs.state_dict(), tmp_path / "state.pt")
    network = import_subnet_(tmp_path / "state.pt", small_resnet(), density=0.29)
    for name, layer in ls.masked_layers(network):
        used = theirs.get_submodule(name)
        assert isinstance(used, ScoredConv)
        assert int(layer.mask().sum()) == used.scores.numel() - int((1 - 0.29) * used.scores.numel())


def test_of_scores_that_tie_the_first_are_kept(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 4), "scores": torch.tensor([[0.5, 0.5, 0.5, 0.25], [-0.5, 1.0, 0.5, 0.0]])}
    torch.save({f"0.{key}": value for key, value in state.items()}, tmp_path / "ties.pt")
    network = import_subnet_(tmp_path / "ties.pt", nn.Sequential(nn.Linear(4, 2, bias=False)), density=0.5)
    mask = ls.masked_layers(network)[0][1].mask()
    assert mask.tolist() == [[True, True, True, False], [False, True, False, False]]


class PublicConv(nn.Module):
    """The public code's Conv2 to Conv8: under their names there, and with 1x1 convolutions for all linear layers."""

    def __init__(self, network: Conv2 | Conv8) -> None:
        super().__init__()
        self.convs = network.features
        self.linear = nn.Sequential(*list(network.classifier)[1:])
        publicly_(self, 0.5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.convs(images).flatten(1))
        return logits


@pytest.mark.parametrize("build", [Conv2, Conv8])
def test_the_public_networks_for_cifar_have_other_names_there(build: type[Conv2 | Conv8], tmp_path: Path) -> None:
    theirs = PublicConv(build(width_multiplier=0.5))
    assert theirs.state_dict()["linear.0.weight"].dim() == 4
    save_checkpoint(theirs, tmp_path / "public.pth")
    network = import_subnet_(tmp_path / "public.pth", build(width_multiplier=0.5), density=0.5)
    assert_same_logits(plain_copy(network), theirs, torch.randn(4, 3, 32, 32))


def test_the_public_resnets_for_cifar_have_other_names_there(tmp_path: Path) -> None:
    theirs = publicly_(small_stem_(small_resnet()), 0.5)
    state = {key.replace(".downsample.", ".shortcut."): value for key, value in theirs.state_dict().items()}
    assert "layer2.0.shortcut.0.scores" in state
    torch.save({"state_dict": state}, tmp_path / "public.pth")
    network = import_subnet_(tmp_path / "public.pth", small_stem_(small_resnet()), density=0.5)
    assert_same_logits(plain_copy(network), theirs, torch.randn(4, 3, 32, 32))


def test_scores_of_zeros_and_ones_are_a_mask_under_which_weights_were_trained(tmp_path: Path) -> None:
    theirs = publicly_(small_resnet(), 0.3, affine=True)
    for module in theirs.modules():
        if isinstance(module, ScoredConv):
            module.scores.data = (torch.rand_like(module.scores) < 0.7).float()
            module.weight.data.mul_(module.scores.data)
            module.density = 1.0
    torch.save(theirs.state_dict(), tmp_path / "fixed.pt")
    network = import_subnet_(tmp_path / "fixed.pt", small_resnet())
    assert_same_logits(plain_copy(network), theirs, torch.randn(4, 3, 64, 64))
    name, layer = ls.masked_layers(network)[-1]
    classifier = theirs.get_submodule(name)
    assert isinstance(classifier, ScoredClassifier)
    assert torch.equal(layer.mask(), classifier.scores.flatten(1) == 1)
    assert layer.weight.requires_grad


def test_the_state_of_a_masked_network_of_ours_can_be_imported(tmp_path: Path) -> None:
    ours = ls.mask_(small_resnet(), ls.EdgePopup(0.3), weights="kaiming_normal", seed=3)
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    again = import_subnet_(tmp_path / "ours.pt", small_resnet(), density=0.3)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())
