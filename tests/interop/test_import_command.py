"""``subnets import``, on a file that the public code wrote and on plain masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from public_code import publicly_, save_checkpoint

from lightning_subnets import load_subnet
from lightning_subnets.commands.subnets import main
from lightning_subnets.subnet_file.container import Container

NETWORK = ["--network=torchvision.models.resnet18", "--arguments={num_classes: 10}"]


def test_a_public_checkpoint_becomes_a_small_file_that_computes_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public, images = publicly_(torchvision.models.resnet18(num_classes=10), density=0.3), torch.randn(2, 3, 32, 32)
    save_checkpoint(public, tmp_path / "model_best.pth")
    out = tmp_path / "rn18.subnet"
    main(["import", str(tmp_path / "model_best.pth"), str(out), *NETWORK, "--density=0.3"])
    assert "rn18.subnet: 1.7 MB" in capsys.readouterr().out
    with torch.no_grad():
        torch.testing.assert_close(load_subnet(out)(images), public(images), atol=1e-4, rtol=1e-4)
    # All weights have one magnitude, so each kept weight takes one bit.
    assert {layer.weights for layer in Container(out).header.layers.values()} == {"signs"}


def test_masks_alone_become_a_subnet_with_weights_of_the_seed(tmp_path: Path) -> None:
    masks = {
        name: torch.rand_like(module.weight) < 0.2
        for name, module in torchvision.models.resnet18(num_classes=10).named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    }
    torch.save(masks, tmp_path / "masks.pt")
    out = tmp_path / "rn18.subnet"
    main(["import", str(tmp_path / "masks.pt"), str(out), *NETWORK, "--weights=kaiming_normal", "--seed=5"])
    header = Container(out).header
    assert (header.weights.distribution, header.weights.seed, header.method.name) == ("kaiming_normal", 5, "FixedMask")
    plain = load_subnet(out)
    for name, mask in masks.items():
        weight = plain.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        assert torch.equal(weight != 0, mask)
