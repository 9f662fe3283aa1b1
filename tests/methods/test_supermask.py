"""Supermask: its draws, its gradient and its evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lightning_subnets as ls
from lightning_subnets import Supermask, mask_, masked_weights, unmask_
from lightning_subnets.masking import MaskedWeight
from lightning_subnets.masking.masked_class import effective_weight
from lightning_subnets.training.module import SubnetModule


def wide(method: Supermask) -> tuple[nn.Module, MaskedWeight]:
    network = mask_(nn.Sequential(nn.Linear(200, 100, bias=False)), method)
    return network, next(iter(masked_weights(network).values()))


def test_each_forward_pass_draws_another_mask() -> None:
    torch.manual_seed(0)
    network, layer = wide(Supermask(0.3))
    images, masks = torch.rand(4, 200), []
    for _ in range(2):
        outputs = network(images)
        masks.append(effective_weight(layer) != 0)  # two reads in one forward pass get the same mask
        assert torch.allclose(outputs, images @ (layer.weight * masks[-1]).T, atol=1e-6)
    first, second = masks
    deviation = math.sqrt(0.3 * 0.7 / first.numel())
    assert not torch.equal(first, second)
    for drawn in (first, second):
        assert abs(drawn.float().mean() - 0.3) < 4 * deviation
    assert abs((first & second).float().mean() - 0.09) < 4 * deviation  # independent draws


class Blocks(nn.Module):
    """A network whose ``forward`` calls each of its blocks, and never the list of them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(20, 20), nn.Linear(20, 20)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


PARTS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "a list that is never called": lambda: ((network := Blocks()), mask_(network.blocks, Supermask())),
    "calls of the parts": lambda: ((network := Blocks()).blocks[1], mask_(network, Supermask())),
    "torch.fx": lambda: (torch.fx.symbolic_trace(mask_((network := Blocks()), Supermask())), network),
}


@pytest.mark.parametrize("part", PARTS)
def test_an_optimizer_step_draws_another_mask_where_the_masked_module_is_never_called(part: str) -> None:
    called, masked = PARTS[part]()
    optimizer = torch.optim.SGD([each for each in masked.parameters() if each.requires_grad], lr=0.0)
    torch.optim.SGD([nn.Parameter(torch.ones(1))]).step()  # of other parameters
    images = torch.rand(4, 20)
    first = called(images)
    assert torch.equal(called(images), first)  # one step, with gradients accumulated
    first.sum().backward()
    optimizer.step()
    assert not torch.equal(called(images), first)


def test_the_gradient_goes_through_the_sigmoid() -> None:
    _, layer = wide(Supermask(0.3))
    upstream = torch.randn_like(layer.weight)
    torch.autograd.backward(effective_weight(layer), upstream)
    assert layer.scores is not None
    # dL/ds = dL/dw_eff * w * p (1 - p), also for weights that were not drawn
    assert torch.allclose(layer.scores.grad, upstream * layer.weight * 0.3 * 0.7, atol=1e-7)  # type: ignore[arg-type]


def test_dynamic_scaling_compensates_for_weights_that_were_not_drawn_and_unmasking_keeps_the_scale() -> None:
    network, layer = wide(Supermask(0.25, dynamic_scaling=True))
    drawn = effective_weight(layer).detach()
    ones = drawn != 0
    assert torch.allclose(drawn[ones], (layer.weight * drawn.numel() / ones.sum())[ones])
    scale = layer.weight.abs().max().item()
    weight = unmask_(network).state_dict()["0.weight"]
    assert weight.abs().max().item() == pytest.approx(4 * scale)
    assert torch.count_nonzero(weight) == 5000


def test_a_network_in_bfloat16_keeps_its_type() -> None:
    network = nn.Sequential(nn.Linear(200, 100, bias=False)).to(torch.bfloat16)
    mask_(network, Supermask(0.25, dynamic_scaling=True))
    assert network(torch.rand(2, 200, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_density_is_the_expected_one() -> None:
    network, layer = wide(Supermask(0.3))
    assert ls.density(network) == 0.3
    assert layer.scores is not None
    with torch.no_grad():
        layer.scores[:50] = 20.0
        layer.scores[50:] = -20.0
    assert layer.mask()[:50].all()
    assert not layer.mask()[50:].any()


@pytest.mark.parametrize(
    ("size", "density"), [(1, 0.0), (1, 1.0), (10, 0.1), (10_000, 0.5), (10_000, 0.9999), (4096 * 4096, 0.9)]
)
def test_scores_for_a_mask_of_any_size_give_this_mask(size: int, density: float) -> None:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.randperm(size)[: round(density * size)]] = True
    network = mask_(nn.Sequential(nn.Linear(size, 1, bias=False)), Supermask(0.5))
    layer = next(iter(masked_weights(network).values()))
    assert layer.scores is not None
    with torch.no_grad():
        layer.scores.copy_(layer.method.scores_for_mask(mask[None], layer.scores))
    assert torch.equal(layer.mask()[0], mask)


def test_an_evaluation_averages_several_passes() -> None:
    torch.manual_seed(0)
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Supermask(0.5, samples=7))
    images, labels = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    passes: list[torch.Tensor] = []
    module.network.register_forward_hook(lambda _module, _input, output: passes.append(output))
    module._evaluate("val", (images, labels), 3)
    metric: Any = module.metrics["val/accuracy"]
    hits = torch.stack([(logits.argmax(dim=1) == labels).float().mean() for logits in passes])
    assert len(hits) == 7
    assert len(set(hits.tolist())) > 1
    assert metric.compute() == pytest.approx(hits.mean().item())


def test_a_prediction_is_the_mean_of_the_probabilities_of_several_passes() -> None:
    torch.manual_seed(0)
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Supermask(0.5, samples=7))
    passes: list[torch.Tensor] = []
    module.network.register_forward_hook(lambda _module, _input, output: passes.append(output.softmax(dim=1)))
    found = module.predict_step(torch.randn(20, 1, 8, 8), 3)
    assert len(passes) == 7
    assert not torch.equal(passes[0], passes[1])
    torch.testing.assert_close(found, torch.stack(passes).mean(dim=0))


def test_an_evaluation_draws_the_same_masks_each_time() -> None:
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Supermask(0.5))
    batch = torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    first, second, other = module.predict_step(batch, 0), module.predict_step(batch, 0), module.predict_step(batch, 1)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_first_scores_do_not_depend_on_the_default_dtype() -> None:
    first = Supermask(0.3).initial_scores(torch.Size([4, 4]), seed=0, stream="")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        again = Supermask(0.3).initial_scores(torch.Size([4, 4]), seed=0, stream="")
    finally:
        torch.set_default_dtype(before)
    assert (again.dtype, again.tolist()) == (first.dtype, first.tolist())
