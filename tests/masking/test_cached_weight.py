"""Effective weights are computed once for each change, and never from outdated scores."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from masked_networks import IMAGES, loss_of, masked_network, scores_of, small_network
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_subnets import EdgePopup, UserError, mask_, masked_weights, unmask_
from lightning_subnets.masking import MaskedWeight, cached_weight
from lightning_subnets.masking.masked_class import effective_weight


class Counting(EdgePopup):
    """A method that counts the layers whose masks it chooses, call by call."""

    def __init__(self, density: float) -> None:
        super().__init__(density)
        self.calls: deque[int] = deque()  # no plain value, whose change would make the masks outdated

    def masks(self, layers: object) -> list[Tensor]:
        assert isinstance(layers, list)
        self.calls.append(len(layers))
        return super().masks(layers)


def counted() -> tuple[Counting, nn.Module]:
    method = Counting(0.4)
    return method, mask_(small_network(), method)


def is_fresh(network: nn.Module) -> bool:
    """Return whether a forward pass uses the weights that a plain sort of the present scores selects."""
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("scores")}
    for name, layer in masked_weights(network).items():
        assert layer.scores is not None
        mask = torch.zeros(layer.weight.numel())
        mask[layer.scores.abs().flatten().argsort(descending=True, stable=True)[: layer.num_kept]] = 1.0
        state[name] = layer.weight * mask.view(layer.weight.shape)
    fresh = torch.equal(network.eval()(IMAGES), functional_call(small_network().eval(), state, IMAGES))
    network.train()
    return fresh


@torch.no_grad()
def shuffle_(scores: Tensor) -> None:
    scores.copy_(torch.rand_like(scores))


def optimizer_of(network: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
    return torch.optim.SGD(scores_of(network).values(), lr=1.0, fused=fused)


def step_(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss_of(network))
    optimizer.step()


def layer_of(network: nn.Module) -> MaskedWeight:
    return next(iter(masked_weights(network).values()))


def test_masks_are_chosen_once_an_optimizer_step_for_all_layers_together() -> None:
    method, network = counted()
    optimizer = optimizer_of(network)
    torch.autograd.backward(loss_of(network))
    assert sum(method.calls) == 3
    for step in range(1, 4):
        for _ in range(4):  # accumulated
            torch.autograd.backward(loss_of(network))
        optimizer.step()
        optimizer.zero_grad()
        assert (sum(method.calls), len(method.calls)) == (3 + 3 * step, 3 + step)


def test_masks_are_not_chosen_again_while_the_scores_stay() -> None:
    method, network = counted()
    for context in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with context:
            network.eval()(IMAGES)
            network(IMAGES)
    other = masked_network()
    step_(other, optimizer_of(other))
    torch.autograd.backward(loss_of(network))  # with weights that were computed without a gradient
    assert sum(method.calls) == 3


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_after_a_step_of_any_optimizer_the_masks_are_those_of_the_new_scores(
    kind: Callable[..., torch.optim.Optimizer], options: dict[str, bool]
) -> None:
    network = masked_network()
    optimizer = kind(scores_of(network).values(), lr=1.0, **options)
    for _ in range(2):
        before = layer_of(network).mask()
        step_(network, optimizer)
        assert not torch.equal(layer_of(network).mask(), before)
        assert is_fresh(network)


def test_a_copy_has_masks_of_its_own_and_is_no_larger_for_a_forward_pass() -> None:
    network = masked_network().eval()
    size = len(pickle.dumps(network))
    network(IMAGES)
    assert len(pickle.dumps(network)) == size
    other = copy.deepcopy(network)
    for scores in scores_of(other).values():
        shuffle_(scores)
    assert is_fresh(other)
    assert is_fresh(network)


def test_a_step_of_one_network_leaves_the_graph_of_another() -> None:
    first, second = masked_network(), masked_network()
    optimizer = torch.optim.SGD([*scores_of(first).values(), *scores_of(second).values()], lr=1.0)
    for loss in [loss_of(first), loss_of(second)]:
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    assert is_fresh(first)
    assert is_fresh(second)
    unmask_(first)
    step_(second, optimizer)
    assert is_fresh(second)


def test_trained_weights_get_the_gradient_of_the_mask_that_was_used() -> None:
    method, network = counted()
    network(IMAGES)  # while the weights are frozen, so that no mask is kept
    network.requires_grad_(True)
    layer = layer_of(network)
    mask = layer.mask()
    method.calls.clear()
    losses = [loss_of(network) for _ in range(3)]
    layer.state.num_kept = 1
    for loss in losses:
        torch.autograd.backward(loss)
    assert sum(method.calls) == 3
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad != 0, mask)


def test_a_network_that_is_moved_or_deleted_frees_its_cached_weights() -> None:
    network = masked_network()
    network(IMAGES)
    layers = weakref.WeakSet(weight.module for weight in masked_weights(network).values())
    assert layers <= cached_weight._modules
    product = weakref.ref(effective_weight(layer_of(network))._base)
    assert product() is not None
    network.double()
    gc.collect()
    assert product() is None
    assert len(layers) == 3
    network(IMAGES.double())
    assert layers <= cached_weight._modules
    del network
    gc.collect()
    assert not layers


def test_networks_may_be_trained_in_several_threads() -> None:
    def train(seed: int) -> bool:
        network = masked_network(seed)
        optimizer = optimizer_of(network, fused=True)
        for _ in range(20):
            step_(network, optimizer)
        return is_fresh(network)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(train, range(4)))


@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_average_of_scores_has_the_masks_of_the_average(use_buffers: bool) -> None:
    network = masked_network()
    ema = get_ema_multi_avg_fn(0.3)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=ema, use_buffers=use_buffers)
    optimizer = optimizer_of(network, fused=True)
    for _ in range(3):
        step_(network, optimizer)
        average.update_parameters(network)
        assert is_fresh(average.module)
    assert not torch.equal(layer_of(average.module).mask(), layer_of(network).mask())


def test_a_masked_weight_has_the_precision_and_the_memory_layout_of_its_weight() -> None:
    network = masked_network()
    network(IMAGES)
    layer = layer_of(network.to(memory_format=torch.channels_last))
    assert effective_weight(layer).is_contiguous(memory_format=torch.channels_last)
    assert is_fresh(network)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        network.to(dtype)
        assert effective_weight(layer).dtype == dtype
        assert torch.equal(effective_weight(layer), layer.weight * layer.mask())


def test_under_autocast_weights_are_chosen_once_a_step_and_cast_as_dense_weights_are() -> None:
    method, network = counted()
    with torch.autocast("cpu", torch.bfloat16):
        step_(network, optimizer_of(network))
        assert network(IMAGES).dtype == torch.bfloat16
    assert sum(method.calls) == 6
    assert is_fresh(network)


def test_a_network_built_in_inference_mode_is_recomputed_each_time() -> None:
    with torch.inference_mode():
        network = masked_network()
        for _ in range(2):
            assert is_fresh(network)
            shuffle_(scores_of(network)["0.scores"])


def test_scores_changed_between_forward_and_backward_are_an_error() -> None:
    network = masked_network()
    loss = loss_of(network)
    shuffle_(scores_of(network)["0.scores"])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


def test_a_score_that_becomes_nan_in_a_step_is_an_error_of_the_next_forward_pass() -> None:
    network = masked_network()
    network(IMAGES)
    for scores in scores_of(network).values():
        scores.grad = torch.full_like(scores, torch.nan)
    optimizer_of(network).step()
    for _ in range(2):
        with pytest.raises(UserError, match="a score is NaN"):
            network(IMAGES)
