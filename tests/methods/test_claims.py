"""Claims of the papers that compare methods."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean
from typing import NamedTuple

import pytest
import torch
from table import quiet_trainer
from torch import Tensor, nn

from lightning_subnets import PHEW, SNIP, EdgePopup, FixedMask, Method, SynFlow, SynFlowL2, mask_, masks
from lightning_subnets.datamodules import Digits
from lightning_subnets.graph.diagnostics import diagnose, log10_path_kernel_trace
from lightning_subnets.networks import VGG16, Conv2, ResNet20
from lightning_subnets.training.module import SubnetModule

SHAPE = (3, 32, 32)


class Unbiased(PHEW):
    """PHEW with walks that prefer no weight."""

    def _strength(self, weight: Tensor) -> Tensor:
        return (weight != 0).to(weight)


class Found(NamedTuple):
    """log10 of the path kernel's trace, and the mean share of a layer's units that is on a path."""

    trace: float
    width: float


def found_by(method: Method, build: Callable[[], nn.Module]) -> Found:
    torch.manual_seed(0)
    network = mask_(build(), method, weights="kaiming_normal", input_shape=SHAPE)
    kept = masks(network)
    diagnosis = diagnose(network, SHAPE)
    return Found(
        log10_path_kernel_trace(network, kept, SHAPE),
        mean(layer.alive / layer.units for layer in diagnosis.layers.values()),
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("build", "density"), [(lambda: VGG16(width_multiplier=0.125), 0.02), (ResNet20, 0.1)], ids=["VGG16", "ResNet20"]
)
def test_synflow_l2_has_the_largest_trace_and_phew_more_than_unbiased_walks_and_wider_layers(
    build: Callable[[], nn.Module], density: float
) -> None:
    """Patil and Dovrolis 2021, sections 4 and 5; Gebhart et al. 2021."""
    phew, unbiased = found_by(PHEW(density), build), found_by(Unbiased(density), build)
    l2, l1 = found_by(SynFlowL2(density, rounds=20), build), found_by(SynFlow(density, rounds=20), build)
    assert l2.trace > phew.trace > unbiased.trace
    assert phew.width > l1.width
    assert phew.width > l2.width


def trained(method: Method, weights: str, *, epochs: int, rate: float) -> SubnetModule:
    torch.manual_seed(0)
    module = SubnetModule(
        Conv2(in_channels=1, image_size=8, width_multiplier=0.5),
        method,
        weights=weights,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
    )
    quiet_trainer(max_epochs=epochs).fit(module, datamodule=Digits())
    return module


def accuracy(module: SubnetModule) -> float:
    (metrics,) = quiet_trainer().test(module, datamodule=Digits(), verbose=False)
    return metrics["test/accuracy"]


@pytest.mark.thorough
def test_shuffling_destroys_a_mask_of_edge_popup_and_not_one_of_snip() -> None:
    """Frankle et al. 2021, section 5, and Su et al. 2020: SNIP chooses how much of each layer to keep."""
    edge_popup = trained(EdgePopup(0.5), "signed_constant", epochs=8, rate=0.1)
    assert accuracy(edge_popup) > 0.9
    shuffled = SubnetModule(
        Conv2(in_channels=1, image_size=8, width_multiplier=0.5),
        FixedMask(masks(edge_popup.network), shuffle=True),
        weights="signed_constant",
    )
    assert accuracy(shuffled) < 0.3  # of ten classes, on the same weights

    snip = trained(SNIP(0.1), "kaiming_normal", epochs=8, rate=0.05)
    again = trained(FixedMask(masks(snip.network), shuffle=True), "kaiming_normal", epochs=8, rate=0.05)
    assert accuracy(snip) > 0.9
    assert accuracy(again) > accuracy(snip) - 0.03
