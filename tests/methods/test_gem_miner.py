"""GemMiner: rounded scores, and edges that are dropped for good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import conv_module, quiet_trainer
from torch import Tensor, nn

from lightning_subnets import GemMiner, UserError, load_subnet, mask_, masked_weights, masks, save_subnet
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking.allocation import num_kept
from lightning_subnets.masking.masked_class import effective_weight
from lightning_subnets.networks import ResNet20

TOTAL = 30 * 20 + 20 * 10


def network(method: GemMiner) -> nn.Module:
    return mask_(
        nn.Sequential(nn.Linear(30, 20, bias=False), nn.ReLU(), nn.Linear(20, 10, bias=False)).double(), method
    )


def scores_of(net: nn.Module) -> list[Tensor]:
    return [each.scores for each in masked_weights(net).values() if each.scores is not None]


def test_scores_are_rounded_and_the_gradient_passes_straight_through_except_for_dropped_edges() -> None:
    net = network(GemMiner(0.5))
    first, last = masked_weights(net).values()
    scores = scores_of(net)[1]
    with torch.no_grad():
        scores[0] = -1
    assert torch.equal(last.mask(), scores > 0.5)
    assert 0.4 < float(first.mask().double().mean()) < 0.6
    inputs, upstream = torch.randn(1, 20).double(), torch.randn(1, 10).double()
    torch.autograd.backward(last.module(inputs), upstream)
    by_hand = last.weight * upstream.T * inputs
    by_hand[0] = 0
    assert scores.grad is not None
    assert torch.equal(scores.grad, by_hand.detach())


def test_rounds_drop_the_lowest_scores_of_all_layers_until_the_density_is_met() -> None:
    method = GemMiner(0.3, every=2, share=0.5)
    net = network(method)
    flags, left = [torch.ones_like(each, dtype=torch.bool) for each in scores_of(net)], TOTAL
    for step in range(1, 9):
        with torch.no_grad():
            for index, each in enumerate(scores_of(net)):  # an optimizer's step, which momentum gives dropped edges too
                each.add_(
                    torch.randn(each.shape, generator=torch.Generator().manual_seed(10 * step + index)), alpha=0.1
                )
        before = torch.cat([each.flatten() for each in scores_of(net)]).clamp(0, 1)
        was = torch.cat([each.flatten() for each in flags])
        method.after_step_(net, step, None)
        now = torch.cat([each.flatten() for each in scores_of(net)])
        if step % 2 == 0:
            left = max(num_kept(TOTAL, 0.3), left - left // 2)
        flag = now >= 0
        assert int(flag.sum()) == left
        assert not (flag & ~was).any()
        assert torch.equal(now[flag], before[flag])
        assert (now[~flag] == -1).all()
        if (was & ~flag).any():
            assert before[was & ~flag].max() <= before[flag].min()
        flags = [each >= 0 for each in scores_of(net)]
    assert sum(int(mask.sum()) for mask in masks(net).values()) <= num_kept(TOTAL, 0.3)


@pytest.mark.parametrize(("density", "share"), [(0.001, 0.2), (0.002, 0.5), (0.9, 0.0001), (1.0, 0.2)])
def test_every_density_is_reached_however_few_edges_a_round_may_drop(density: float, share: float) -> None:
    method = GemMiner(density, every=1, share=share)
    net = network(method)
    for step in range(1, 101):
        method.after_step_(net, step, None)
    assert sum(int((each >= 0).sum()) for each in scores_of(net)) == num_kept(TOTAL, density)


def test_scores_are_clamped_without_computing_the_effective_weights_again_except_in_a_round() -> None:
    net = network(GemMiner(0.5, every=2))
    layer, inputs = next(iter(masked_weights(net).values())), torch.randn(4, 30).double()
    optimizer = torch.optim.SGD(scores_of(net), lr=100.0)
    for step in (1, 2):
        torch.autograd.backward(net(inputs).square().sum())
        optimizer.step()
        before = effective_weight(layer)
        assert any((each > 1).any() for each in scores_of(net))
        layer.method.after_step_(net, step, None)
        assert all((each <= 1).all() for each in scores_of(net))
        after = effective_weight(layer)
        assert torch.equal(after, layer.weight * layer.mask())
        assert (after.data_ptr() == before.data_ptr()) == (step == 1)


def test_a_file_has_the_mask_and_gives_dropped_edges_another_chance(tmp_path: Path) -> None:
    net = mask_(ResNet20(), GemMiner(0.3, every=1, share=0.5), seed=1)
    masked_weights(net)["fc.weight"].method.after_step_(net, 1, None)
    assert any(bool((each < 0).any()) for each in scores_of(net))
    save_subnet(net, tmp_path / "a.subnet", network="lightning_subnets.networks.ResNet20")
    loaded = load_subnet(tmp_path / "a.subnet", masked=True)
    for (name, mask), found in zip(masks(net).items(), masks(loaded).values(), strict=True):
        assert torch.equal(mask, found), name
    for found, mask in zip(scores_of(loaded), masks(net).values(), strict=True):
        assert torch.equal(found > 0.5, mask)
        assert bool((found >= 0).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0.0}, r"density = 0.0 is outside \(0, 1\]"),
        ({"density": 0.1, "every": 0}, r"every = 0 is below 1"),
        ({"density": 0.1, "share": 1.0}, r"share = 1.0 is outside \(0, 1\)"),
    ],
)
def test_an_argument_out_of_range_is_an_error(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GemMiner(**arguments)  # type: ignore[arg-type]


def test_a_run_that_is_too_short_for_its_rounds_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def said(every: int) -> str:
        trainer = quiet_trainer(max_epochs=1, limit_train_batches=8)
        trainer.fit(conv_module(GemMiner(0.3, every=every), allow_collapse=True), datamodule=Digits())
        return capsys.readouterr().err

    assert said(1) == ""  # six rounds, because 0.8^5 > 0.3 > 0.8^6
    short = "GemMiner reaches density = 0.3 in about 6 rounds, one every {} steps, and this run has 8 steps: "
    assert said(2) == short.format(2) + "take every = 1 or less, or train longer\n"
    assert "7 rounds" in str(GemMiner(0.25).too_short(6))
    assert str(GemMiner(0.25).too_short(6)).endswith("and this run has 6 steps: train longer")
    assert GemMiner(1.0).too_short(1) is None
    assert GemMiner(0.729, every=10, share=0.1).too_short(30) is None
    assert GemMiner(0.3).too_short(float("inf")) is None


def test_a_run_without_an_end_may_reach_any_density(capsys: pytest.CaptureFixture[str]) -> None:
    module = conv_module(GemMiner(0.3), schedule="constant", allow_collapse=True)
    quiet_trainer(max_epochs=-1, max_time="00:00:00:01", limit_train_batches=2).fit(module, datamodule=Digits())
    assert module.trainer.global_step > 0
    assert capsys.readouterr().err == ""
