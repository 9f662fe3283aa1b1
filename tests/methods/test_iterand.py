"""IteRand: its scores, and when and which weights it draws again."""

from __future__ import annotations

import math

import pytest
import torch
from table import quiet_trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_subnets import IteRand, UserError, mask_, masked_weights
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.module import SubnetModule


def test_the_highest_signed_scores_are_kept_and_a_score_gets_the_gradient_of_its_weight() -> None:
    network = mask_(nn.Sequential(nn.Linear(20, 10, bias=False)), IteRand(0.3), weights="kaiming_normal").double()
    layer, *_ = masked_weights(network).values()
    assert layer.scores is not None
    scores, weight = layer.scores.detach().clone(), layer.weight.detach().clone()
    mask = torch.zeros(200, dtype=torch.bool)
    mask[scores.flatten().argsort(descending=True)[:60]] = True
    mask = mask.view(10, 20)
    assert torch.equal(layer.mask(), mask)
    images, upstream = torch.rand(4, 20, dtype=torch.float64), torch.rand(4, 10, dtype=torch.float64)
    logits = network(images)
    torch.testing.assert_close(logits, images @ (weight * mask).T, rtol=1e-12, atol=0.0)
    torch.autograd.backward(logits, upstream)
    assert layer.scores.grad is not None
    torch.testing.assert_close(layer.scores.grad, weight * (upstream.T @ images), rtol=1e-12, atol=0.0)


def test_scores_start_uniform_up_to_the_root_of_six_by_the_number_of_inputs() -> None:
    network = mask_(nn.Sequential(nn.Conv2d(16, 64, 3)), IteRand(0.5), weights="kaiming_normal")
    layer, *_ = masked_weights(network).values()
    assert layer.scores is not None
    scores, bound = layer.scores.detach(), math.sqrt(6 / (16 * 9))
    assert 0.999 * bound < scores.abs().max() < bound
    assert scores.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert abs(scores.mean()) < 4 * bound / math.sqrt(3 * scores.numel())


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (128, [5, 10, 15, 20]),
        (64, [10, 20]),
        (256, [3, 5, 8, 10, 13, 15, 18, 20]),  # 2.5 steps each
    ],
)
def test_weights_are_drawn_again_after_as_many_images_as_steps_of_128_have(images: int, expected: list[int]) -> None:
    method = IteRand(0.5, every=5, share=1.0)
    network = mask_(nn.Sequential(nn.Linear(8, 8)), method, weights="kaiming_normal")
    layer, *_ = masked_weights(network).values()
    found = []
    for step in range(1, 21):
        before = layer.weight.clone()
        method.after_step_(network, step, images)
        if not torch.equal(layer.weight, before):
            found.append(step)
    assert found == expected


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_counts_the_images_of_all_batches_of_a_step(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(IteRand, "after_step_", lambda _self, _network, step, images: seen.append((step, images)))
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), IteRand(0.5), weights="kaiming_normal")
    trainer = quiet_trainer(max_steps=4, accumulate_grad_batches=accumulate)
    trainer.fit(module, datamodule=Digits(batch_size=64))
    assert seen == [(step, 64 * accumulate) for step in range(1, 5)]


def test_data_that_do_not_say_how_many_images_a_step_has_are_an_error() -> None:
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), IteRand(0.5))
    loader = DataLoader(TensorDataset(torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)), batch_size=4)
    with pytest.raises(UserError, match=r"IteRand counts images, and the data have no batch_size"):
        quiet_trainer(max_epochs=1).fit(module, loader, loader)


def test_a_loop_of_ones_own_must_say_how_many_images_a_step_has() -> None:
    network = mask_(nn.Sequential(nn.Linear(4, 2)), IteRand(0.5, every=1), weights="kaiming_normal")
    with pytest.raises(UserError, match="pass the number of images in a step"):
        IteRand(0.5).after_step_(network, 1, None)


def test_only_a_share_of_the_unused_weights_is_drawn_again() -> None:
    method = IteRand(0.4, every=5, share=0.25)
    network = mask_(nn.Sequential(nn.Linear(200, 100, bias=False)), method, weights="kaiming_normal", seed=3)
    layer, *_ = masked_weights(network).values()
    before, mask = layer.weight.clone(), layer.mask()
    method.after_step_(network, 5, images=128)
    changed = layer.weight != before
    unused = int((~mask).sum())
    assert not (changed & mask).any()
    assert abs(changed.sum() / unused - 0.25) < 4 * math.sqrt(0.25 * 0.75 / unused)
    # The new weights have the same distribution.
    new = layer.weight[changed]
    assert abs(new.mean()) < 4 * new.std() / math.sqrt(len(new))
    assert new.std() == pytest.approx(math.sqrt(2 / 200), rel=4 / math.sqrt(2 * len(new)))
    assert torch.equal(layer.mask(), mask)


def test_new_weights_are_scaled_for_the_density_as_the_first_ones() -> None:
    method = IteRand(0.25, every=1, share=1.0)
    network = mask_(nn.Sequential(nn.Linear(50, 40)), method, weights="scaled_signed_constant")
    layer, *_ = masked_weights(network).values()
    before = layer.weight.clone()
    method.after_step_(network, 1, images=128)
    assert not torch.equal(layer.weight, before)
    assert torch.equal(layer.weight.abs(), before.abs())


def test_new_weights_are_used_once_they_are_selected() -> None:
    torch.manual_seed(0)
    method = IteRand(0.5, every=1, share=1.0)
    network = mask_(nn.Sequential(nn.Linear(8, 8, bias=False)), method, weights="kaiming_normal")
    layer, *_ = masked_weights(network).values()
    images = torch.rand(2, 8)
    network(images)
    method.after_step_(network, 1, images=128)
    assert layer.scores is not None
    with torch.no_grad():
        layer.scores[~layer.mask()] += 10.0
    assert torch.allclose(network(images), images @ (layer.weight * layer.mask()).T)


def test_the_seed_and_the_step_determine_the_new_weights() -> None:
    method = IteRand(0.5, every=2, share=0.5)

    def weight_after(step: int) -> torch.Tensor:
        network = mask_(nn.Sequential(nn.Linear(20, 20)), method, weights="kaiming_normal", seed=1)
        method.after_step_(network, step, images=128)
        return next(iter(masked_weights(network).values())).weight

    assert torch.equal(weight_after(2), weight_after(2))
    assert not torch.equal(weight_after(2), weight_after(4))


def test_without_a_distribution_it_is_an_error_and_the_network_is_unchanged() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match="name a distribution"):
        mask_(network, IteRand(0.5), weights=None)
    assert type(network[0]) is nn.Linear
