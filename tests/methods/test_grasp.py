"""GraSP: its scores, and its Hessian-gradient product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_subnets.errors import UserError
from lightning_subnets.masking.maskable import maskable_layers
from lightning_subnets.masking.method import PruningData
from lightning_subnets.methods.grasp import GraSP
from lightning_subnets.methods.scoring_loss import ScoringLoss


def chain(*norms: nn.Module) -> nn.Module:
    """Smooth, for differences."""
    layers = [nn.Conv2d(3, 4, 3, padding=1), *norms, nn.Tanh(), nn.Conv2d(4, 4, 3, groups=2), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 3)).double()


def batch(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 5, 5, dtype=torch.float64), torch.randint(3, (size,))


def test_the_scores_are_those_derived_by_hand_and_the_highest_are_kept() -> None:
    """One layer, z = W x / T = (0, 0) at x = (1, 2), T = 2: with d = p - y = (-1/2, 1/2) it is g = d x^T / T, and
    p moves along g by d |x|^2 / (2 T^2), so H g = d x^T |x|^2 / (2 T^3) = 5/16 d x^T."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network.get_parameter("0.weight").copy_(torch.tensor([[2.0, -1.0], [4.0, -2.0]]))
    batches = [(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))]
    scores = GraSP(1.0, temperature=2.0).scores(network, batches)
    torch.testing.assert_close(scores["0"], 5 / 16 * torch.tensor([[-1.0, 1.0], [2.0, -2.0]]))

    for density, kept in ((1 / 4, [[0, 0], [1, 0]]), (2 / 4, [[0, 1], [1, 0]]), (3 / 4, [[1, 1], [1, 0]])):
        masks = GraSP(density, temperature=2.0).compute_masks(network, PruningData(batches))
        assert masks["0"].int().tolist() == kept


def test_a_weight_with_a_positive_score_takes_gradient_with_it_when_it_goes() -> None:
    """|g|^2 falls by 2 * score * h when the weight shrinks by its share h."""
    network, (images, labels) = chain(), batch(6)
    layers = maskable_layers(network)
    scores = GraSP(0.5, temperature=2.0).scores(network, [(images, labels)])

    def squared_gradient(weights: dict[str, Tensor]) -> float:
        weights = {key: weight.detach().requires_grad_() for key, weight in weights.items()}
        loss = nn.functional.cross_entropy(functional_call(network, weights, images) / 2.0, labels)
        return sum(each.square().sum().item() for each in torch.autograd.grad(loss, list(weights.values())))

    step = 1e-5
    weights = {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}
    for name, score in scores.items():
        for index in (int(score.argmax()), int(score.argmin())):
            shrunk, grown = (weights[f"{name}.weight"].clone() for _ in range(2))
            shrunk.view(-1)[index] *= 1 - step
            grown.view(-1)[index] *= 1 + step
            fall = squared_gradient({**weights, f"{name}.weight": grown}) - squared_gradient(
                {**weights, f"{name}.weight": shrunk}
            )
            assert fall / (2 * step) == pytest.approx(2 * score.view(-1)[index].item(), rel=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_the_hessian_gradient_product_is_that_of_finite_differences(norm: bool) -> None:
    network, batches = chain(*([nn.BatchNorm2d(4)] if norm else [])), [batch(5), batch(3)]
    loss = ScoringLoss(network, batches, temperature=2.0)
    gradient = loss.gradient()
    product = loss.hessian_product(gradient)
    step, ends = 1e-4, []
    for sign in (1, -1):
        moved = ScoringLoss(network, batches, temperature=2.0)
        for name, weight in moved.weights.items():
            weight.detach().add_(gradient[name], alpha=sign * step)
        ends.append(moved.gradient())
    for name, each in product.items():
        assert each.abs().max() > 1e-7
        torch.testing.assert_close((ends[0][name] - ends[1][name]) / (2 * step), each, rtol=1e-5, atol=1e-10)


def test_batches_of_any_size_are_one_batch_where_no_norm_looks_at_them() -> None:
    network, (images, labels) = chain(), batch(7)
    whole = GraSP(0.5).scores(network, [(images, labels)])
    batches = [(images[:4], labels[:4]), (images[4:5], labels[4:5]), (images[5:], labels[5:])]
    parts = GraSP(0.5).scores(network, batches)
    for name, scores in whole.items():
        assert scores.abs().max() > 0
        torch.testing.assert_close(parts[name], scores, rtol=1e-9, atol=1e-22)


def test_attention_is_derived_twice() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.outputs = nn.Linear(4, 12), nn.Linear(4, 3)

        def forward(self, sequence: Tensor) -> Tensor:
            query, key, value = self.inputs(sequence)[:, None].chunk(3, dim=-1)
            attended = nn.functional.scaled_dot_product_attention(query, key, value)
            logits: Tensor = self.outputs(attended[:, 0].mean(1))
            return logits

    scores = GraSP(0.5).scores(Attention(), [(torch.randn(2, 5, 4), torch.tensor([0, 1]))])
    assert all(each.abs().max() > 0 for each in scores.values())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_0_is_a_mistake(temperature: float) -> None:
    with pytest.raises(UserError, match="temperature = "):
        GraSP(0.5, temperature=temperature)
