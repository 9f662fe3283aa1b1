"""The number of paths in networks of torchvision and timm, against the networks' own sums."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from lightning_subnets.graph.unit_graph import Edges
from lightning_subnets.graph.unit_tracing import trace
from lightning_subnets.masking.maskable import find_weights


class Excitation(nn.Module):
    """Squeeze-and-excitation with a sum instead of its product, because the graph counts paths this way."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.first, self.second = module.get_submodule("fc1"), module.get_submodule("fc2")

    def forward(self, features: Tensor) -> Any:
        return features + self.second(self.first(features))


def linear(network: nn.Module) -> nn.Module:
    """Return the network in float64 with all weights 1: its output for one pixel of 1 is the number of paths.

    Only the middle of each kernel meets the pixel. Activations that change positive numbers, and pools, are removed.
    """
    network = copy.deepcopy(network)
    left_out = (nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.ReLU6, nn.MaxPool2d, nn.AvgPool2d)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, left_out):
                setattr(module, name, nn.Identity())
            elif isinstance(child, torchvision.ops.SqueezeExcitation):
                setattr(module, name, Excitation(child))
            elif isinstance(child, nn.BatchNorm2d):
                child.eps = 1e-300  # torch 2.11 refuses 0; 1 + eps is 1
    for name, parameter in network.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    return network.double().eval()


def check_number_of_paths(network: nn.Module, image_size: int) -> None:
    graph = trace(network, (3, image_size, image_size))
    middles = {name: np.ones(layer.parameter.shape[:2]) for name, layer in find_weights(network).masked.items()}
    for into, ends in ((False, graph.outputs), (True, graph.inputs)):
        logs = graph.log_paths(middles, backward=into)[ends] * math.log(10)
        with torch.no_grad():
            expected = float(linear(network)(torch.ones(1, 3, 1, 1, dtype=torch.float64)).sum().log())
        assert np.logaddexp.reduce(logs) == pytest.approx(expected, rel=1e-9)


models = torchvision.models


def small_mobilenet() -> nn.Module:
    """Return a MobileNet with depthwise convolutions and squeeze-and-excitation."""
    block = models.mobilenetv3.InvertedResidualConfig
    blocks = [block(16, 3, 16, 16, True, "RE", 2, 1, 1), block(16, 5, 40, 16, True, "HS", 1, 1, 1)]
    network: nn.Module = models.MobileNetV3([*blocks, block(16, 5, 40, 24, False, "HS", 2, 1, 1)], 32, num_classes=5)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: models.ResNet(models.resnet.BasicBlock, [2, 1, 1, 1], num_classes=5),
    "mobilenet v3": small_mobilenet,
    "densenet": lambda: models.DenseNet(4, (2, 3), 8, num_classes=5),
    "shufflenet": lambda: models.ShuffleNetV2([2, 2, 2], [8, 16, 32, 64, 128], num_classes=5),
}
LARGE = ("resnext50_32x4d", "densenet121", "regnet_y_400mf", "mobilenet_v3_small", "shufflenet_v2_x1_0")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.thorough] * (name != "densenet")) for name in NETWORKS]
)
def test_a_network_has_as_many_paths_as_its_own_sums_say(name: str) -> None:
    check_number_of_paths(NETWORKS[name](), 32)


@pytest.mark.long
@pytest.mark.parametrize("name", LARGE)
def test_a_network_of_full_size_has_as_many_paths_as_its_own_sums_say(name: str) -> None:
    check_number_of_paths(models.get_model(name, num_classes=5), 224)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["resnest14d", "seresnext26d_32x4d", "res2net50_14w_8s", "skresnet18"])
def test_a_network_of_timm_has_no_unit_off_all_paths(name: str) -> None:
    network = timm.create_model(name, num_classes=5)
    graph = trace(network, (3, 32, 32))
    assert {step.name for step in graph.steps if isinstance(step, Edges)} == {*find_weights(network).masked}
    weights = {name: np.ones(layer.parameter.shape[:2]) for name, layer in find_weights(network).masked.items()}
    assert np.isfinite(graph.log_paths(weights)).all()
    assert np.isfinite(graph.log_paths(weights, backward=True)).all()
