"""The gradient of a masked network against Algorithm 1, derivations by hand and finite differences; Theorem 1."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from masked_networks import scores_of, small_network
from torch import Tensor, nn
from torch.func import functional_call

from lightning_subnets import EdgePopup, mask_, masked_weights, raw_weight, unmask_


class Algorithm1(torch.autograd.Function):
    """The paper's pseudocode: sort in every forward pass, and let the gradient through."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int) -> Tensor:
        mask = torch.zeros(scores.numel(), dtype=scores.dtype)
        mask[scores.flatten().argsort(descending=True, stable=True)[:k]] = 1.0
        return mask.view(scores.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def test_each_step_gives_the_scores_of_the_plain_algorithm() -> None:
    """Compare step by step from a common state, because rounding adds up over many steps."""
    network = mask_(small_network(), EdgePopup(0.3), weights="kaiming_normal")
    plain = small_network()
    optimizer = torch.optim.SGD(scores_of(network).values(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    reference = {name: scores.detach().clone().requires_grad_() for name, scores in scores_of(network).items()}
    other = torch.optim.SGD(reference.values(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(3):
        images, labels = torch.randn(4, 3, 4, 4), torch.randint(5, (4,))
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(network(images), labels))

        state = {name: value for name, value in network.state_dict().items() if name not in reference}
        for name, layer in masked_weights(network).items():
            scores = reference[name.replace("weight", "scores")]
            state[name] = layer.weight * Algorithm1.apply(scores.abs(), layer.num_kept)
        other.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(functional_call(plain, state, images), labels))

        for step in (optimizer, other):
            step.step()
        for name, scores in scores_of(network).items():
            torch.testing.assert_close(scores, reference[name], rtol=1e-5, atol=1e-7)
            reference[name].data.copy_(scores)


def test_a_score_of_zero_has_a_gradient_of_zero() -> None:
    layer = mask_(nn.Linear(3, 1, bias=False), EdgePopup(0.5))
    with torch.no_grad():
        layer.get_parameter("scores").copy_(torch.tensor([[0.0, -2.0, 1.0]]))
    torch.autograd.backward(layer(torch.ones(1, 3)).sum())
    gradient = layer.get_parameter("scores").grad
    assert gradient is not None
    assert torch.equal(gradient, raw_weight(layer) * torch.tensor([[0.0, -1.0, 1.0]]))


@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"dilation": 2, "padding": (0, 2)}], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_gradient_of_a_convolution_is_that_derived_by_hand(options: dict[str, Any], groups: int) -> None:
    """L = |y|^2 / 2 with y = W x has ds = sign(s) * w * y x^T (Eq. 5), summed over the image's patches x (B.2)."""
    layer = nn.Conv2d(4, 6, 3, bias=False, groups=groups, **options).double()
    images = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    mask_(layer, EdgePopup(0.4), weights="kaiming_normal")
    outputs = layer(images)
    (outputs.square().sum() / 2).backward()
    scores = layer.get_parameter("scores")
    gradient = torch.cat(
        [
            torch.einsum("nop,nip->oi", y.flatten(2), nn.functional.unfold(x, 3, **options))
            for y, x in zip(outputs.chunk(groups, 1), images.chunk(groups, 1), strict=True)
        ]
    )
    weight = raw_weight(layer)
    expected = scores.sign() * weight * gradient.view(weight.shape)
    torch.testing.assert_close(scores.grad, expected, rtol=1e-11, atol=1e-13)
    assert weight.grad is None
    assert scores.grad is not None
    assert scores.grad.all()


def test_the_gradient_is_that_of_the_loss_as_a_function_of_a_continuous_mask() -> None:
    """Take central differences of the straight-through surrogate: of L(m) about the present mask, not of L(s)."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(27, 4)).double()
    images, labels = torch.randn(5, 2, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    mask_(network, EdgePopup(0.5), weights="kaiming_normal")
    torch.autograd.backward(nn.functional.cross_entropy(network(images), labels))
    plain = unmask_(copy.deepcopy(network))
    step = 1e-5
    for name, layer in masked_weights(network).items():
        mask = layer.mask().double()
        differences = torch.empty_like(mask)
        for index in range(mask.numel()):
            losses = []
            for change in (step, -step):
                moved = mask.clone()
                moved.view(-1)[index] += change
                logits = functional_call(plain, {name: layer.weight * moved}, images)
                losses.append(nn.functional.cross_entropy(logits, labels).item())
            differences.view(-1)[index] = (losses[0] - losses[1]) / (2 * step)
        assert layer.scores is not None
        torch.testing.assert_close(layer.scores.grad, layer.scores.sign() * differences, rtol=1e-6, atol=1e-9)


def layers_swapped_by_a_step(network: nn.Module, start: dict[str, Tensor], lr: float) -> int:
    """Return the number of layers in which a step of SGD from ``start`` swaps edges."""
    network.load_state_dict(start)
    before = [layer.mask() for layer in masked_weights(network).values()]
    torch.optim.SGD(scores_of(network).values(), lr=lr).step()
    after = [layer.mask() for layer in masked_weights(network).values()]
    return sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.thorough
def test_when_edges_are_swapped_in_one_layer_the_loss_of_the_minibatch_falls() -> None:
    """Check Theorem 1 (the more general form) with the smallest step that swaps edges.

    The proof drops terms of second order in the change of a layer's output. A small rate makes swaps few, and small
    weights make each of them small. The proof assumes positive scores; here scores start so far from 0 that hardly one
    changes its sign.
    """
    swapped = 0
    for seed in range(60):
        network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        mask_(network, EdgePopup(0.5), weights="kaiming_normal", seed=seed)
        with torch.no_grad():
            for layer in masked_weights(network).values():
                layer.weight.mul_(0.03)
            for scores in scores_of(network).values():
                scores.add_(scores.sign())
        inputs, labels = torch.randn(8, 4, dtype=torch.float64), torch.randint(3, (8,))
        loss = nn.functional.cross_entropy(network(inputs), labels)
        torch.autograd.backward(loss)
        start = copy.deepcopy(network.state_dict())
        lr = 1e6
        while layers_swapped_by_a_step(network, start, lr / 1.1):
            lr /= 1.1
        count = layers_swapped_by_a_step(network, start, lr)
        if count == 1 and all(
            torch.equal(score.sign(), start[key].sign()) for key, score in scores_of(network).items()
        ):
            swapped += 1
            assert nn.functional.cross_entropy(network(inputs), labels) < loss, f"seed {seed}"
    assert swapped > 50
