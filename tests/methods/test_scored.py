"""Properties of every method that scores weights by a derivative: SNIP, GraSP, SynFlow and SynFlow-L2."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

from lightning_subnets import density, mask_
from lightning_subnets.masking import allocation
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit, weights_to_mask
from lightning_subnets.methods.grasp import GraSP
from lightning_subnets.methods.snip import SNIP
from lightning_subnets.methods.synflow import SynFlow, SynFlowL2

every_method = pytest.mark.parametrize("method", [SNIP, GraSP, SynFlow, SynFlowL2])


def few_rounds(method: type[PruneAtInit], density: float) -> PruneAtInit:
    """Return the method, with few rounds if it has rounds."""
    return method(density, **({"rounds": 3} if issubclass(method, SynFlow | SynFlowL2) else {}))  # type: ignore[call-arg]


def scoring_of(size: int = 32) -> PruningData:
    batches = [(torch.randn(3, 3, size, size), torch.randint(4, (3,))) for _ in range(2)]
    return PruningData(batches, (3, size, size))


def grouped() -> nn.Module:
    """Return a network with grouped convolutions, norms, dropout and a layer whose output is not used."""
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, groups=4)]
    network = nn.Sequential(*layers, nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5))
    network.append(nn.Linear(32, 4))
    network[1].register_module("unused", nn.Linear(2, 2))
    return network


@every_method
def test_pruning_is_deterministic_and_changes_nothing_else(method: type[PruneAtInit]) -> None:
    network, scoring = grouped(), scoring_of()
    network.train()
    network[0].eval()  # type: ignore[index]
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    network.get_parameter("0.weight").requires_grad_(False)
    state = copy.deepcopy(network.state_dict())
    gradients = {name: copy.deepcopy(parameter.grad) for name, parameter in network.named_parameters()}
    frozen = [parameter.requires_grad for parameter in network.parameters()]
    modes = [module.training for module in network.modules()]
    identities = [id(parameter) for parameter in network.parameters()]
    images = [batch[0].clone() for batch in scoring.batches]
    generator = torch.get_rng_state()
    with torch.no_grad():
        first = few_rounds(method, 0.2).compute_masks(network, scoring)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(batch[0], old) for batch, old in zip(scoring.batches, images, strict=True))
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    for name, parameter in network.named_parameters():
        old = gradients[name]
        assert parameter.grad is None if old is None else torch.equal(parameter.grad, old)  # type: ignore[arg-type]
    assert [parameter.requires_grad for parameter in network.parameters()] == frozen
    assert [module.training for module in network.modules()] == modes
    assert [id(parameter) for parameter in network.parameters()] == identities
    torch.manual_seed(5)
    second = few_rounds(method, 0.2).compute_masks(network, scoring)
    assert all(torch.equal(mask, second[name]) for name, mask in first.items())


class Backward(PruneAtInit):
    """A method of a user, which computes gradients with the network that it is given."""

    requires = "batches"

    def __init__(self) -> None:
        self.density = 0.5

    def compute_masks(self, network: nn.Module, data: PruningData) -> dict[str, torch.Tensor]:
        for images, labels in data.batches:
            torch.autograd.backward(nn.functional.cross_entropy(network.train()(images), labels))
        gradients = {name: weight.grad for name, weight in weights_to_mask(network, data).items()}
        return {name: each.gt(0) for name, each in gradients.items() if each is not None}


@pytest.mark.parametrize("old", [None, 1.0])
def test_gradients_buffers_and_modes_are_restored_for_any_method(old: float | None) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4)).eval()
    gradients = [None if old is None else torch.full_like(each, old) for each in network.parameters()]
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.grad = gradient
    network.register_buffer("expanded", torch.ones(1).expand(8))  # which cannot be written to
    parameters, buffers = [*network.parameters()], copy.deepcopy([*network.buffers()])
    mask_(network, Backward(), batches=scoring_of(8).batches)
    assert 0.2 < density(network) < 0.8
    assert all(map(torch.equal, network.buffers(), buffers))
    assert not any(module.training for module in network.modules())
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert parameter.grad is gradient
        assert gradient is None or gradient.eq(1.0).all()


@every_method
@pytest.mark.parametrize(
    "build",
    [
        lambda: timm.create_model("test_efficientnet", num_classes=4),
        pytest.param(lambda: timm.create_model("mobilevit_xxs", num_classes=4), marks=pytest.mark.thorough),
    ],
    ids=["efficientnet", "mobilevit"],
)
def test_networks_of_timm_can_be_scored(method: type[PruneAtInit], build: Callable[[], nn.Module]) -> None:
    masks = few_rounds(method, 0.1).compute_masks(build(), scoring_of())
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == allocation.num_kept(total, 0.1)
