"""Methods whose masks are integers, and edges that are not searched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_subnets import Multicoated, PartiallyFrozen, SignedSupermask, UserError, mask_, masked_weights, masks
from lightning_subnets.masking import MaskedWeight
from lightning_subnets.masking.allocation import num_kept
from lightning_subnets.masking.frozen_edges import FrozenEdges
from lightning_subnets.masking.method import Method


def linear(method: Method, size: int = 40, seed: int = 0) -> MaskedWeight:
    network = mask_(nn.Sequential(nn.Linear(size, size, bias=False)).double(), method, seed=seed)
    (found,) = masked_weights(network).values()
    return found


def scores_of(weight: MaskedWeight) -> Tensor:
    assert weight.scores is not None
    return weight.scores.detach()


def gradients(weight: MaskedWeight) -> tuple[Tensor, Tensor]:
    """Return dL/ds, and w * dL/dw_eff derived by hand, for one image x and the gradient g of its outputs.

    Frozen edges have no gradient.
    """
    generator = torch.Generator().manual_seed(1)
    images, upstream = (torch.randn(1, len(weight.weight), generator=generator).double() for _ in range(2))
    torch.autograd.backward(weight.module(images), upstream)
    assert weight.scores is not None
    assert weight.scores.grad is not None
    searched = weight.frozen_edges.pattern == 0 if weight.frozen_edges else torch.ones_like(weight.mask())
    return weight.scores.grad, weight.weight.detach() * upstream.T * images * searched


@pytest.mark.parametrize("signed", [False, True])
def test_a_multiplier_counts_the_coats_that_a_score_is_in(signed: bool) -> None:
    weight = linear(Multicoated(0.3, inner=[0.5, 0.1], signed=signed))
    scores, multiplier = scores_of(weight), weight.multiplier()
    kept = num_kept(1600, 0.3)
    expected = torch.zeros(1600, dtype=torch.int8)
    for count in (kept, round(0.5 * kept), round(0.1 * kept)):
        expected[scores.abs().flatten().argsort(descending=True)[:count]] += 1
    if signed:
        expected *= scores.flatten().sign().to(torch.int8)
    assert torch.equal(multiplier.flatten(), expected)
    assert torch.equal(weight.mask(), multiplier != 0)
    assert torch.equal(weight.module(torch.eye(40).double()), (weight.weight * multiplier).T)


@pytest.mark.parametrize("frozen", [0.0, 0.6])
def test_each_coat_passes_the_gradient(frozen: float) -> None:
    weight = linear(Multicoated(0.3, inner=[0.5, 0.1], frozen=frozen))
    found, by_hand = gradients(weight)
    assert torch.equal(found, 3 * (scores_of(weight).sign() * by_hand))
    weight = linear(Multicoated(0.3, inner=[0.5, 0.1], signed=True, frozen=frozen))
    found, by_hand = gradients(weight)
    assert torch.equal(found, 3 * by_hand)


def test_a_signed_supermask_keeps_drops_and_flips_by_the_threshold() -> None:
    weight = linear(SignedSupermask(0.4, threshold=0.02))
    scores = scores_of(weight)
    assert torch.equal(weight.multiplier(), (scores.sign() * (scores.abs() > 0.02)).to(torch.int8))
    assert abs(float(weight.mask().double().mean()) - 0.4) < 4 * (0.4 * 0.6 / 1600) ** 0.5
    assert float(scores.abs().max()) <= 0.02 / 0.6
    found, by_hand = gradients(weight)
    assert torch.equal(found, by_hand)


@pytest.mark.parametrize("method", [PartiallyFrozen(0.3, frozen=0.7), SignedSupermask(0.3, frozen=0.7)], ids=str)
def test_only_searched_edges_count_in_the_norm_of_the_gradient(method: Method) -> None:
    weight = linear(method)
    found, by_hand = gradients(weight)
    assert weight.frozen_edges
    assert torch.equal(found != 0, weight.frozen_edges.pattern == 0)
    assert torch.equal(found.abs(), by_hand.abs())


def test_a_kept_weight_whose_score_starts_at_0_stays_kept_when_a_file_is_read() -> None:
    weight = linear(SignedSupermask(0.4))
    scores, expected = scores_of(weight), weight.multiplier()
    with torch.no_grad():
        scores.copy_(weight.method.scores_for_mask(expected, torch.zeros_like(scores)))
    assert torch.equal(weight.multiplier(), expected)


@pytest.mark.parametrize(
    "method",
    [
        PartiallyFrozen(0.3, frozen=0.7),
        Multicoated(0.3, frozen=0.7),
        Multicoated(0.3, signed=True, frozen=0.7),
        SignedSupermask(0.3, frozen=0.7),
    ],
    ids=str,
)
def test_frozen_edges_follow_from_the_seed_alone_whatever_the_scores(method: Method) -> None:
    weight = linear(method)
    assert weight.frozen_edges
    pattern = weight.frozen_edges.pattern
    assert (int((pattern == 1).sum()), int((pattern == -1).sum())) == (int(0.7 * 0.3 * 1600), int(0.7 * 0.7 * 1600))
    before = weight.multiplier()
    with torch.no_grad():
        scores_of(weight).copy_(torch.randn(40, 40, generator=torch.Generator().manual_seed(2)))
    after = weight.multiplier()
    for multiplier in (before, after):
        assert (multiplier[pattern == 1] == 1).all()
        assert (multiplier[pattern == -1] == 0).all()
    assert not torch.equal(before, after)
    assert torch.equal(linear(method).frozen_edges.pattern, pattern)  # type: ignore[union-attr]
    assert not torch.equal(linear(method, seed=1).frozen_edges.pattern, pattern)  # type: ignore[union-attr]


def test_searched_edges_are_ranked_by_their_scores() -> None:
    weight = linear(PartiallyFrozen(0.3, frozen=0.5))
    assert weight.frozen_edges
    searched = weight.frozen_edges.pattern == 0
    kept = num_kept(1600, 0.3) - weight.frozen_edges.always
    order = scores_of(weight).abs().masked_fill(~searched, -1).flatten().argsort(descending=True)
    expected = (weight.frozen_edges.pattern == 1).flatten()
    expected[order[:kept]] = True
    assert torch.equal(weight.mask().flatten(), expected)


def test_layers_that_keep_equally_many_weights_keep_all_they_have_at_most() -> None:
    layers = nn.Linear(4, 5, bias=False), nn.Linear(5, 100, bias=False), nn.Linear(100, 100, bias=False)
    network = mask_(nn.Sequential(*layers), PartiallyFrozen(0.1, allocation="equal"))
    assert [int(mask.sum()) for mask in masks(network).values()] == [20, 500, num_kept(10_520, 0.1) - 520]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Multicoated(0.3, inner=[0.1, 0.5]), r"inner = \[0.1, 0.5\] is not falling"),
        (lambda: Multicoated(0.3, inner=0.5), r"inner = 0.5 is a number: it is a list of shares, \[0.5\]"),  # type: ignore[arg-type]
        (lambda: Multicoated(0.3, inner=[1.0]), r"inner = \[1.0\] is not falling"),
        (lambda: Multicoated(0.3, allocation="global"), r"allocation = 'global' does not fix"),
        (lambda: PartiallyFrozen(0.3, frozen=1.0), r"frozen = 1.0 is outside \[0, 1\)"),
        (lambda: SignedSupermask(1.0), r"density = 1.0 is outside \(0, 1\)"),
        (lambda: SignedSupermask(threshold=0.0), r"threshold = 0.0 is not above 0 and finite"),
        (lambda: SignedSupermask(threshold=float("inf")), r"threshold = inf is not above 0 and finite"),
        (lambda: SignedSupermask(frozen=-0.1), r"frozen = -0.1 is outside \[0, 1\)"),
    ],
)
def test_an_argument_out_of_range_is_an_error_that_names_it(build: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("method", [PartiallyFrozen(0.3), SignedSupermask(0.3, frozen=0.5)])
def test_a_state_of_another_seed_has_other_frozen_edges_and_is_refused(method: Method) -> None:
    first, same, other = (mask_(nn.Linear(9, 9), method, seed=seed) for seed in (7, 7, 0))
    same.load_state_dict(first.state_dict())
    same.load_state_dict({key: each.half() for key, each in first.state_dict().items()})
    with pytest.raises(
        UserError, match=r"weight of the state dict is not the weight of this network, so the frozen ed"
    ):
        other.load_state_dict(first.state_dict())


def test_frozen_edges_that_an_evaluation_moves_can_be_used_in_training() -> None:
    frozen = FrozenEdges.draw(torch.Size([4, 4]), always=2, never=2, seed=0, stream="layer")
    with torch.inference_mode():
        assert not frozen.on(torch.device("meta")).is_inference()
