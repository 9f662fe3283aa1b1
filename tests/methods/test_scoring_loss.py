"""The scores of SNIP and GraSP against numbers worked out by hand, explicit masks and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_subnets import SNIP, GraSP, UserError
from lightning_subnets.masking.maskable import find_weights
from lightning_subnets.masking.method import PruningData
from lightning_subnets.methods.scoring_loss import PruneByLoss, ScoringLoss


def chain(*, norm: bool = False) -> nn.Sequential:
    """Return a network that is smooth, so that finite differences exist."""
    norms = [nn.BatchNorm2d(4)] if norm else []
    layers = [nn.Conv2d(3, 4, 3, padding=1), *norms, nn.Tanh(), nn.Conv2d(4, 4, 3, groups=2), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 3)).double()


def batch(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 5, 5, dtype=torch.float64), torch.randint(3, (size,))


def test_the_scores_of_snip_are_those_derived_by_hand() -> None:
    """Hidden units are (3, 2) and logits (0, 0), so p - y = (-1/2, 1/2) and dL/dh of the hidden units is (-3, 4.5)."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network.get_parameter("0.weight").copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        network.get_parameter("2.weight").copy_(torch.tensor([[2.0, -3.0], [-4.0, 6.0]]))
    batches = [(torch.ones(1, 2), torch.tensor([0]))]
    scores = SNIP(1.0).scores(network, PruningData(batches))
    assert scores["0.weight"].tolist() == [[3.0, 6.0], [13.5, 4.5]]
    assert scores["2.weight"].tolist() == [[3.0, 3.0], [6.0, 6.0]]

    masks = SNIP(3 / 8).compute_masks(network, PruningData(batches))
    assert masks["0.weight"].tolist() == [[False, True], [True, False]]
    assert masks["2.weight"].tolist() == [[False, False], [True, False]]  # the last of the three sixes goes


def test_the_scores_of_grasp_are_those_derived_by_hand_and_the_highest_are_kept() -> None:
    """One layer: z = W x / T = (0, 0) at x = (1, 2), T = 2, so g = d x^T / T with d = p - y = (-1/2, 1/2).

    Along g, p moves by d |x|^2 / (2 T^2), so H g = d x^T |x|^2 / (2 T^3) = 5/16 d x^T.
    """
    network = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network.get_parameter("0.weight").copy_(torch.tensor([[2.0, -1.0], [4.0, -2.0]]))
    batches = [(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))]
    scores = GraSP(1.0, temperature=2.0).scores(network, PruningData(batches))
    torch.testing.assert_close(scores["0.weight"], 5 / 16 * torch.tensor([[-1.0, 1.0], [2.0, -2.0]]))
    for density, kept in ((1 / 4, [[0, 0], [1, 0]]), (2 / 4, [[0, 1], [1, 0]]), (3 / 4, [[1, 1], [1, 0]])):
        masks = GraSP(density, temperature=2.0).compute_masks(network, PruningData(batches))
        assert masks["0.weight"].int().tolist() == kept


@pytest.mark.parametrize("norm", [False, True])
def test_the_scores_of_snip_are_the_gradient_with_respect_to_an_explicit_mask(norm: bool) -> None:
    network, (images, labels) = chain(norm=norm), batch(6)
    weights = find_weights(network).masked
    masks = {name: torch.ones_like(each.parameter, requires_grad=True) for name, each in weights.items()}
    masked = {name: each.parameter.detach() * masks[name] for name, each in weights.items()}
    loss = nn.functional.cross_entropy(functional_call(network, masked, images), labels)
    expected = torch.autograd.grad(loss, list(masks.values()))
    scores = SNIP(0.5).scores(network, PruningData([(images, labels)]))
    assert list(scores) == list(weights)
    for score, gradient in zip(scores.values(), expected, strict=True):
        torch.testing.assert_close(score, gradient.abs(), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("norm", [False, True])
def test_the_hessian_product_agrees_with_finite_differences(norm: bool) -> None:
    network, data = chain(norm=norm), PruningData([batch(5), batch(3)])
    loss = ScoringLoss(network, data, temperature=2.0)
    gradient = loss.gradient()
    product = loss.hessian_product(gradient)
    step, ends = 1e-4, []
    for sign in (1, -1):
        moved = ScoringLoss(network, data, temperature=2.0)
        for name, weight in moved.weights.items():
            weight.detach().add_(gradient[name], alpha=sign * step)
        ends.append(moved.gradient())
    for name, each in product.items():
        assert each.abs().max() > 1e-7
        torch.testing.assert_close((ends[0][name] - ends[1][name]) / (2 * step), each, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("method", [SNIP(0.5), GraSP(0.5)])
def test_without_norms_scores_do_not_depend_on_the_sizes_of_batches(method: PruneByLoss) -> None:
    network, (images, labels) = chain(), batch(7)
    whole = method.scores(network, PruningData([(images, labels)]))
    batches = [(images[:4], labels[:4]), (images[4:5], labels[4:5]), (images[5:], labels[5:])]
    parts = method.scores(network, PruningData(batches))
    for name, scores in whole.items():
        assert scores.abs().max() > 0
        torch.testing.assert_close(parts[name], scores, rtol=1e-9, atol=1e-16 if isinstance(method, SNIP) else 1e-22)


def test_batch_norm_uses_the_statistics_of_the_batch_and_dropout_is_off() -> None:
    network, data = chain(norm=True), PruningData([batch(6)])
    expected = SNIP(0.5).scores(network, data)
    network.get_submodule("1").register_buffer("running_mean", torch.full((4,), 9.0, dtype=torch.float64))
    with_dropout = nn.Sequential(*network[:3], nn.Dropout(0.9), *network[3:])
    scores = SNIP(0.5).scores(with_dropout, data)
    assert all(map(torch.equal, expected.values(), scores.values()))


def test_attention_has_second_derivatives() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.outputs = nn.Linear(4, 12), nn.Linear(4, 3)

        def forward(self, sequence: Tensor) -> Tensor:
            query, key, value = self.inputs(sequence)[:, None].chunk(3, dim=-1)
            attended = nn.functional.scaled_dot_product_attention(query, key, value)
            logits: Tensor = self.outputs(attended[:, 0].mean(1))
            return logits

    scores = GraSP(0.5).scores(Attention(), PruningData([(torch.randn(2, 5, 4), torch.tensor([0, 1]))]))
    assert all(each.abs().max() > 0 for each in scores.values())


def test_a_loss_that_is_not_finite_is_an_error_that_names_a_weight_and_the_remedy() -> None:
    images, labels = batch(2)
    images[0, 0, 0, 0] = float("inf")
    with pytest.raises(UserError, match=r"'0\.weight' of Sequential cannot be scored.*normalised.*kaiming_normal"):
        SNIP(0.5).compute_masks(chain(), PruningData([(images, labels)]))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (batch(2)[0], torch.tensor([0, 99]), "labels from 0 to 99: Target 99 is out of bounds"),
        (batch(2)[0][:, :2], torch.tensor([0, 1]), r"images of shape \(2, 2, 5, 5\) and torch.float64"),
        (batch(2)[0].float(), torch.tensor([0, 1]), "and torch.float32"),
    ],
)
def test_scoring_batches_that_do_not_fit_the_network_are_a_mistake_of_the_caller(
    images: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SNIP(0.5).compute_masks(chain(), PruningData([(images, labels)]))
