"""Folded ResNets: several blocks with one weight, in the forward pass, in gradients, in masks and in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from repository import ROOT
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import lightning_subnets as ls
from lightning_subnets import UserError
from lightning_subnets.commands.cli import main
from lightning_subnets.interop.exporting import export
from lightning_subnets.networks import FoldedResNet
from lightning_subnets.networks.folded_resnet import SHAPES
from lightning_subnets.networks.small_stem import small_stem_
from lightning_subnets.subnet_file import load_subnet, masks_in, save_subnet

SMALL: dict[str, Any] = {"width_multiplier": 1 / 16, "small_stem": True}
SHAPE = (3, 16, 16)


def named(**options: Any) -> dict[str, Any]:
    return {"class_path": "lightning_subnets.networks.FoldedResNet", "init_args": SMALL | options}


def trained(**options: Any) -> nn.Module:
    """Return a masked network whose scores and running statistics have changed."""
    network = ls.mask_(FoldedResNet(**SMALL, **options), ls.EdgePopup(0.3), weights="signed_constant", seed=3)
    optimizer = torch.optim.SGD([each for each in network.parameters() if each.requires_grad], lr=0.1)
    for _ in range(2):
        torch.autograd.backward(nn.functional.cross_entropy(network(torch.randn(8, *SHAPE)), torch.arange(8)))
        optimizer.step()
    return network


def places(name: str, network: nn.Module) -> list[str]:
    """Return the names that a tensor of a folded network has in the network without sharing."""
    stage, *middle, tensor = name.split(".")
    match middle:
        case [block, "convs", conv]:
            iterations = len(list(network.get_submodule(f"{stage}.{block}.norms").children()))
            return [f"{stage}.{each}.conv{int(conv) + 1}.{tensor}" for each in range(1, iterations + 1)]
        case [_, "norms", iteration, conv]:
            return [f"{stage}.{int(iteration) + 1}.bn{int(conv) + 1}.{tensor}"]
        case _:
            return [name]


def unrolled(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of the network without sharing, which has a copy of the weight in each block."""
    return {place: value for name, value in network.state_dict().items() for place in places(name, network)}


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
@pytest.mark.parametrize("folded_stages", [(), (3, 4), (1, 2, 3, 4)])
def test_the_logits_are_those_of_the_resnet_with_a_copy_of_the_weight_in_each_block(
    name: str, folded_stages: tuple[int, ...]
) -> None:
    network = FoldedResNet(name, num_classes=7, folded_stages=folded_stages)
    stock = torchvision.models.get_model(name, num_classes=7)
    stock.load_state_dict(unrolled(network), strict=True)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(images), stock(images))
    stock.load_state_dict(unrolled(network), strict=True)  # with running statistics that the images have changed
    assert torch.equal(network.eval()(images), stock.eval()(images))


def test_the_small_stem_is_that_of_a_resnet_for_small_images() -> None:
    network = FoldedResNet(small_stem=True)
    stock = small_stem_(torchvision.models.resnet34(num_classes=10))
    stock.load_state_dict(unrolled(network), strict=True)
    images = torch.randn(2, *SHAPE)
    assert torch.equal(network(images), stock(images))
    assert FoldedResNet(in_channels=1, small_stem=True).conv1.weight.shape == (64, 1, 3, 3)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("folded_stages", [(3, 4), (1, 2, 3, 4)])
def test_folding_drops_the_weights_of_later_blocks_and_no_multiply_add(
    name: str, folded_stages: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        folded = FoldedResNet(name, num_classes=1000, folded_stages=folded_stages)
        stock = torchvision.models.get_model(name)
    dropped = sum(
        conv.weight.numel()
        for stage in folded_stages
        for block in stock.get_submodule(f"layer{stage}")[2:]
        for conv in block.children()
        if isinstance(conv, nn.Conv2d)
    )
    assert number(folded.parameters()) == number(stock.parameters()) - dropped
    assert multiply_adds(folded) == multiply_adds(stock)


@pytest.mark.parametrize(("name", "weights"), [("resnet34", 11_678_912), ("resnet50", 15_963_328)])
def test_the_docstring_states_the_numbers_of_weights_and_multiply_adds(name: str, weights: int) -> None:
    with torch.device("meta"):
        network = FoldedResNet(name, num_classes=1000)
    assert sum(each.numel() for each in network.parameters() if each.dim() > 1) == weights
    assert FoldedResNet.__doc__ is not None
    assert f"{weights:,}" in FoldedResNet.__doc__
    assert f"{multiply_adds(network) / 1e9:.2f}" in FoldedResNet.__doc__


def number(parameters: Any) -> int:
    return sum(each.numel() for each in parameters)


def multiply_adds(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    total: int = counter.get_total_flops()
    return total // 2


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_the_gradient_of_a_shared_score_is_the_sum_over_the_iterations(name: str) -> None:
    network, plain = (
        ls.mask_(
            FoldedResNet(name, **SMALL, folded_stages=stages).double(), ls.EdgePopup(0.5), weights="kaiming_normal"
        )
        for stages in ((1, 2, 3, 4), ())
    )
    plain.load_state_dict(unrolled(network), strict=True)
    images, labels = torch.randn(4, *SHAPE, dtype=torch.float64), torch.arange(4)
    for one in (network, plain):
        torch.autograd.backward(nn.functional.cross_entropy(one(images), labels))
    scores = {key: each for key, each in network.named_parameters() if key.endswith("scores")}
    assert sum(".convs." in key for key in scores) == 4 * {"resnet34": 2, "resnet50": 3}[name]
    for key, each in scores.items():
        parts = [plain.get_parameter(place).grad for place in places(key, network)]
        assert len(parts) == (SHAPES[name].blocks[int(key[5]) - 1] - 1 if ".convs." in key else 1)
        assert all(part is not None and part.any() for part in parts)
        torch.testing.assert_close(each.grad, torch.stack(parts).sum(dim=0))  # type: ignore[arg-type]


def test_a_shared_weight_has_one_mask_and_is_once_in_the_state_and_in_the_file(tmp_path: Path) -> None:
    network = trained()
    layers = [name for name, each in network.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    weights = sorted(f"{layer}.weight" for layer in layers)
    assert len(weights) == 1 + 4 * (2 + 2) + 3 + 1  # the stem, two blocks a stage, three shortcuts, the last layer
    save_subnet(network, tmp_path / "net.subnet", network=named())
    assert sorted(ls.masks(network)) == sorted(masks_in(tmp_path / "net.subnet")) == weights
    state = network.state_dict()
    assert sorted(key for key, each in state.items() if each.dim() > 1 and key.endswith("weight")) == weights
    assert len({each.data_ptr() for each in state.values()}) == len(state)
    with safe_open(tmp_path / "net.subnet", "pt") as file:
        keys = file.keys()
    assert sorted(key for key in keys if key.startswith("mask/")) == [f"mask/{name}" for name in weights]


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_a_file_gives_the_network_back_to_the_bit_masked_and_plain(tmp_path: Path, name: str) -> None:
    network, path = trained(name=name).eval(), tmp_path / "net.subnet"
    save_subnet(network, path, network=named(name=name))
    images = torch.randn(4, *SHAPE)
    plain, masked = load_subnet(path), load_subnet(path, masked=True).eval()
    assert torch.equal(plain(images), network(images))
    assert torch.equal(masked(images), network(images))
    assert ls.masks(masked).keys() == ls.masks(network).keys()
    assert all(torch.equal(mask, ls.masks(masked)[key]) for key, mask in ls.masks(network).items())
    state, again = ls.unmask_(network).state_dict(), plain.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in state.items())


def test_a_network_of_plain_torch_has_the_logits_of_the_unmasked_one() -> None:
    network, images = trained().eval(), torch.randn(4, *SHAPE)
    logits = network(images)
    plain = FoldedResNet(**SMALL).eval()
    plain.load_state_dict(ls.unmask_(network).state_dict(), strict=True)
    stock = FoldedResNet(**SMALL, folded_stages=()).eval()
    stock.load_state_dict(unrolled(plain), strict=True)
    for each in (network, plain, stock):
        assert torch.equal(each(images), logits)


def test_the_onnx_file_holds_a_shared_weight_once_and_has_the_same_logits(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install lightning-subnets[onnx]")
    network, path = trained().eval(), tmp_path / "net.onnx"
    weights = sum(each.weight.numel() for each in ls.masked_weights(network).values())
    export(network, path, input_shape=SHAPE, details={})  # compares the logits
    model = onnx.load(path)
    found = [onnx.numpy_helper.to_array(each).size for each in model.graph.initializer if len(each.dims) > 1]
    assert sum(found) == weights
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 1 + 2 * sum(SHAPES["resnet34"].blocks) + 3


def test_a_file_is_smaller_by_the_shared_weights(tmp_path: Path) -> None:
    """At 30 % of the weights, a file of ResNet-34 has 2,510,988 bytes, and folded 1,384,188."""
    sizes = []
    for stages in ((), (1, 2, 3, 4)):
        options: dict[str, Any] = {"width_multiplier": 0.5, "folded_stages": stages}
        network = ls.mask_(FoldedResNet(**options), ls.EdgePopup(0.3), weights="signed_constant")
        path = tmp_path / f"{len(stages)}.subnet"
        arguments = options | {"folded_stages": [*stages]}
        save_subnet(network, path, network=named() | {"init_args": arguments})
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.thorough
def test_digits_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ROOT / "configs" / "digits" / "folded.yaml"
    options = ["--trainer.accelerator=cpu", "--trainer.max_epochs=3", "--seed_everything=0"]
    main(["fit", "-c", str(config), *options])
    summary = json.loads(Path("runs/folded/version_0/summary.json").read_text())
    assert summary["weights_unchanged"] is True
    assert summary["density"] == pytest.approx(0.5, abs=1e-4)
    assert summary["test_accuracy"] > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet18"}, "name = 'resnet18' is not a ResNet that can be folded: use resnet34, resnet50, "),
        ({"folded_stages": (0, 4)}, r"folded_stages = \[0, 4\] names a stage that is not 1, 2, 3 or 4"),
    ],
)
def test_an_unknown_resnet_or_stage_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FoldedResNet(**options)
