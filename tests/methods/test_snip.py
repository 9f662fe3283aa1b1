"""SNIP: its scores, and the loss that they and GraSP's come from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_subnets.errors import UserError
from lightning_subnets.masking.maskable import maskable_layers
from lightning_subnets.masking.method import PruningData
from lightning_subnets.methods.snip import SNIP


def chain(*, norm: bool = False) -> nn.Module:
    norms = [nn.BatchNorm2d(4)] if norm else []
    layers = [nn.Conv2d(3, 4, 3, padding=1), *norms, nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 3)).double()


def batch(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 5, 5, dtype=torch.float64), torch.randint(3, (size,))


def test_the_scores_are_those_derived_by_hand() -> None:
    """Hidden units are (3, 2) and logits (0, 0), so p - y = (-1/2, 1/2), and of the hidden units dL/dh = (-3, 4.5)."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network.get_parameter("0.weight").copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        network.get_parameter("2.weight").copy_(torch.tensor([[2.0, -3.0], [-4.0, 6.0]]))
    batches = [(torch.ones(1, 2), torch.tensor([0]))]
    scores = SNIP(1.0).scores(network, batches)
    assert scores["0"].tolist() == [[3.0, 6.0], [13.5, 4.5]]
    assert scores["2"].tolist() == [[3.0, 3.0], [6.0, 6.0]]

    masks = SNIP(3 / 8).compute_masks(network, PruningData(batches))
    assert masks["0"].tolist() == [[False, True], [True, False]]
    assert masks["2"].tolist() == [[False, False], [True, False]]  # of the three sixes, the last one goes


@pytest.mark.parametrize("norm", [False, True])
def test_the_scores_are_the_gradient_with_respect_to_an_explicit_mask(norm: bool) -> None:
    network, (images, labels) = chain(norm=norm), batch(6)
    layers = maskable_layers(network)
    masks = {name: torch.ones_like(layer.weight, requires_grad=True) for name, layer in layers.items()}
    masked = {f"{name}.weight": layer.weight.detach() * masks[name] for name, layer in layers.items()}
    loss = nn.functional.cross_entropy(functional_call(network, masked, images), labels)
    expected = torch.autograd.grad(loss, list(masks.values()))
    scores = SNIP(0.5).scores(network, [(images, labels)])
    assert list(scores) == list(layers)
    for score, gradient in zip(scores.values(), expected, strict=True):
        torch.testing.assert_close(score, gradient.abs(), rtol=1e-12, atol=1e-16)


def test_batches_of_any_size_are_one_batch_where_no_norm_looks_at_them() -> None:
    network, (images, labels) = chain(), batch(7)
    whole = SNIP(0.5).scores(network, [(images, labels)])
    batches = [(images[:4], labels[:4]), (images[4:5], labels[4:5]), (images[5:], labels[5:])]
    parts = SNIP(0.5).scores(network, batches)
    for name, scores in whole.items():
        torch.testing.assert_close(parts[name], scores, rtol=1e-12, atol=1e-16)


def test_batch_norm_takes_the_statistics_of_the_batch_and_dropout_is_off() -> None:
    network, data = chain(norm=True), batch(6)
    expected = SNIP(0.5).scores(network, [data])
    network.get_submodule("1").register_buffer("running_mean", torch.full((4,), 9.0, dtype=torch.float64))
    with_dropout = nn.Sequential(*network[:3], nn.Dropout(0.9), *network[3:])  # type: ignore[index]
    scores = SNIP(0.5).scores(with_dropout, [data])
    for old, new in zip(expected.values(), scores.values(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_a_mistake_that_names_a_layer_and_what_to_do(number: float) -> None:
    images, labels = batch(2)
    images[0, 0, 0, 0] = number
    with pytest.raises(UserError, match=r"layer '0' of Sequential cannot be scored.*normalised.*kaiming_normal"):
        SNIP(0.5).compute_masks(chain(), PruningData([(images, labels)]))


def test_samples_per_class_below_one_is_a_mistake() -> None:
    with pytest.raises(UserError, match="samples_per_class = 0"):
        SNIP(0.5, samples_per_class=0)
