"""Masked weights are made once for each change, and are never those of other scores."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_subnets import EdgePopup, Method, UserError, mask_, masked_layers, unmask_
from lightning_subnets.masking import MaskedLayer, cached_weight


class Counting(EdgePopup):
    """How many layers' masks have been chosen, and in how many calls."""

    chosen = calls = 0

    def masks(self, layers: object) -> list[Tensor]:
        assert isinstance(layers, list)
        self.chosen, self.calls = self.chosen + len(layers), self.calls + 1
        return super().masks(layers)


IMAGES = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])
EMA = get_ema_multi_avg_fn(0.3)  # type: ignore[no-untyped-call]


def plain_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 1),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 5),
    )


def masked_network(method: Method | None = None) -> nn.Module:
    """Of three masked layers."""
    return mask_(plain_network(), method or EdgePopup(0.4))


def scores_for_mask(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in network.named_parameters() if name.endswith("scores")]


def loss_of(network: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(network(IMAGES), LABELS)


def is_fresh(network: nn.Module) -> bool:
    """Whether a forward pass computes with the weights that a plain sort of the present scores chooses."""
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("scores")}
    for name, layer in masked_layers(network):
        assert layer.scores is not None
        mask = torch.zeros(layer.weight.numel())
        mask[layer.scores.abs().flatten().argsort(descending=True, stable=True)[: layer.num_kept]] = 1.0
        state[f"{name}.weight"] = layer.weight * mask.view(layer.weight.shape)
    training = network.training
    network.eval()
    fresh = torch.equal(network(IMAGES), functional_call(plain_network().eval(), state, IMAGES))
    network.train(training)
    return fresh


def shuffle_(scores: Tensor) -> None:
    """New scores, in place."""
    with torch.no_grad():
        scores.copy_(torch.rand_like(scores))


def layer_of(network: nn.Module) -> MaskedLayer:
    return masked_layers(network)[0][1]


def test_masks_are_chosen_once_an_optimizer_step_for_all_layers_together() -> None:
    method = Counting(0.4)
    network = masked_network(method)
    optimizer = torch.optim.SGD(scores_for_mask(network), lr=0.1)
    torch.autograd.backward(loss_of(network))
    assert method.chosen == 3
    for step in range(1, 4):
        for _ in range(4):  # accumulated
            torch.autograd.backward(loss_of(network))
        optimizer.step()
        optimizer.zero_grad()
        assert (method.chosen, method.calls) == (3 + 3 * step, 3 + step)


def test_masks_are_not_chosen_in_evaluation_while_the_scores_stay() -> None:
    method = Counting(0.4)
    network = masked_network(method).eval()
    for context in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with context:
            for _ in range(3):
                network(IMAGES)
    assert method.chosen == 3


def test_another_networks_optimizer_leaves_the_masks() -> None:
    method = Counting(0.4)
    network, other = masked_network(method), masked_network()
    optimizer = torch.optim.SGD(scores_for_mask(other), lr=0.1)
    network(IMAGES)
    torch.autograd.backward(loss_of(other))
    optimizer.step()
    network(IMAGES)
    assert method.chosen == 3


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda scores: torch.optim.SGD(scores, lr=1.0, momentum=0.9),
    "SGD, foreach": lambda scores: torch.optim.SGD(scores, lr=1.0, foreach=True),
    "SGD, fused": lambda scores: torch.optim.SGD(scores, lr=1.0, fused=True),
    "AdamW": lambda scores: torch.optim.AdamW(scores, lr=0.1),
    "AdamW, foreach": lambda scores: torch.optim.AdamW(scores, lr=0.1, foreach=True),
    "AdamW, fused": lambda scores: torch.optim.AdamW(scores, lr=0.1, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_after_a_step_of_any_optimizer_the_masks_are_those_of_the_new_scores(name: str) -> None:
    network = masked_network()
    optimizer = OPTIMIZERS[name](scores_for_mask(network))
    for _ in range(3):
        before = layer_of(network).mask()
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(network))
        optimizer.step()
        assert not torch.equal(layer_of(network).mask(), before)
        assert is_fresh(network)


def test_an_optimizer_that_steps_before_the_first_forward_pass_is_seen() -> None:
    network = masked_network()
    for scores in scores_for_mask(network):
        scores.grad = torch.randn_like(scores)
    torch.optim.SGD(scores_for_mask(network), lr=1.0, fused=True).step()
    assert is_fresh(network)


def test_a_closure_that_moves_the_scores_within_a_step_sees_their_masks() -> None:
    network = masked_network()
    optimizer = torch.optim.LBFGS(scores_for_mask(network), lr=0.1, max_iter=3)

    def closure() -> float:
        optimizer.zero_grad()
        assert is_fresh(network)
        loss = loss_of(network)
        torch.autograd.backward(loss)
        return loss.item()

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert is_fresh(network)


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_scores_and_weights_are_used(assign: bool) -> None:
    network, other = masked_network(), mask_(plain_network(), EdgePopup(0.4), seed=5)
    network(IMAGES)
    network.load_state_dict(copy.deepcopy(other.state_dict()), assign=assign)
    assert is_fresh(network)
    assert torch.equal(network.eval()(IMAGES), other.eval()(IMAGES))


EDITS: dict[str, Callable[[MaskedLayer], object]] = {
    "one score": lambda layer: layer.scores.view(-1)[0].fill_(9.0),  # type: ignore[union-attr]
    "all scores": lambda layer: shuffle_(layer.scores),  # type: ignore[arg-type]
    "a view of the scores": lambda layer: layer.scores.detach().flatten().neg_().add_(0.01),  # type: ignore[union-attr]
    "a list of scores": lambda layer: torch._foreach_add_([layer.scores], [torch.rand_like(layer.weight)]),  # type: ignore[list-item]
    "one weight": lambda layer: layer.weight.view(-1)[0].fill_(9.0),
    "the number kept": lambda layer: setattr(layer, "num_kept", 5),
    "the masked weight itself": lambda layer: layer.masked_weight().zero_(),
}
REPLACEMENTS: dict[str, Callable[[MaskedLayer], object]] = {
    "scores": lambda layer: setattr(layer, "scores", nn.Parameter(torch.rand_like(layer.weight))),
    "data of the scores": lambda layer: setattr(layer.scores, "data", torch.rand_like(layer.weight)),
    "weight": lambda layer: setattr(layer, "weight", nn.Parameter(torch.rand_like(layer.weight))),
    "scores over the same memory, edited as often": lambda layer: edit_in_another_(layer),
}


def edit_in_another_(layer: MaskedLayer) -> None:
    assert layer.scores is not None
    edits = layer.scores._version
    layer.scores = nn.Parameter(layer.scores.data)
    for _ in range(edits - layer.scores._version):
        shuffle_(layer.scores)
    assert layer.scores._version == edits


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("edit", EDITS)
def test_what_is_edited_in_place_is_used(edit: str, mode: Callable[[], torch.no_grad]) -> None:
    network = masked_network()
    for _ in range(2):
        assert is_fresh(network)
        with mode():
            EDITS[edit](layer_of(network))
        assert is_fresh(network)


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_what_is_put_in_anothers_place_is_used(replacement: str) -> None:
    network = masked_network()
    shuffle_(scores_for_mask(network)[0])
    for _ in range(2):
        assert is_fresh(network)
        REPLACEMENTS[replacement](layer_of(network))
        assert is_fresh(network)


def test_a_copy_has_masks_of_its_own() -> None:
    network = masked_network()
    network(IMAGES)
    other = copy.deepcopy(network)
    for scores in scores_for_mask(other):
        shuffle_(scores)
    assert is_fresh(other)
    assert is_fresh(network)
    shuffle_(scores_for_mask(network)[0])
    assert is_fresh(copy.deepcopy(network))


def test_a_pickled_network_is_not_larger_for_having_been_used() -> None:
    network = masked_network().eval()
    before = len(pickle.dumps(network))
    network(IMAGES)
    assert len(pickle.dumps(network)) == before


def test_one_optimizer_over_two_networks_leaves_the_graph_of_the_other() -> None:
    first, second = masked_network(), masked_network()
    optimizer = torch.optim.SGD([*scores_for_mask(first), *scores_for_mask(second)], lr=1.0)
    losses = [loss_of(first), loss_of(second)]
    for loss in losses:
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    assert is_fresh(first)
    assert is_fresh(second)


def test_a_teacher_of_other_scores_leaves_the_graph_of_its_student() -> None:
    network = masked_network()
    logits = network(IMAGES)
    with torch.no_grad():
        others = {f"{name}.scores": torch.rand_like(layer.weight) for name, layer in masked_layers(network)}
        target = functional_call(network, others, IMAGES)
    assert not torch.equal(logits, target)
    torch.autograd.backward((logits - target).square().sum())
    assert is_fresh(network)


def test_where_weights_are_trained_masks_are_chosen_once_too_and_the_gradient_is_of_the_mask_used() -> None:
    method = Counting(0.4)
    network = masked_network(method)
    for parameter in network.parameters():
        parameter.requires_grad_()
    layer = layer_of(network)
    mask = layer.mask()
    method.chosen = 0
    losses = [loss_of(network) for _ in range(3)]
    layer.num_kept = 1
    for loss in losses:
        torch.autograd.backward(loss)
    assert method.chosen == 3
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad != 0, mask)


def test_an_unmasked_network_is_not_looked_for_after_a_step() -> None:
    network, other = masked_network(), masked_network()
    network(IMAGES)
    optimizer = torch.optim.SGD([*network.parameters(), *other.parameters()], lr=0.1)
    torch.autograd.backward(loss_of(other))
    unmask_(network)
    optimizer.step()
    assert is_fresh(other)


def test_scores_from_a_vector_are_used_each_time() -> None:
    network = masked_network()
    for _ in range(4):
        for _ in range(2):
            vector = torch.rand(sum(scores.numel() for scores in scores_for_mask(network)))
            nn.utils.vector_to_parameters(vector, scores_for_mask(network))
            del vector
        assert is_fresh(network)


def test_a_network_sent_elsewhere_keeps_nothing_where_it_was() -> None:
    network = masked_network()
    network(IMAGES)
    product = weakref.ref(layer_of(network).masked_weight()._base)
    assert product() is not None
    network.double()
    gc.collect()
    assert product() is None


def test_networks_are_trained_in_several_threads() -> None:
    def train(seed: int) -> bool:
        network = mask_(plain_network(), EdgePopup(0.4), seed=seed)
        optimizer = torch.optim.SGD(scores_for_mask(network), lr=0.1, fused=True)
        for _ in range(30):
            optimizer.zero_grad()
            torch.autograd.backward(loss_of(network))
            optimizer.step()
        return is_fresh(network)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(train, range(8)))


@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_average_of_scores_has_the_masks_of_the_average(use_buffers: bool) -> None:
    network = masked_network()
    average = AveragedModel(network, multi_avg_fn=EMA, use_buffers=use_buffers)
    optimizer = torch.optim.SGD(scores_for_mask(network), lr=1.0, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(network))
        optimizer.step()
        average.update_parameters(network)
        assert is_fresh(average.module)
    assert not torch.equal(layer_of(average.module).mask(), layer_of(network).mask())


def test_a_resumed_network_has_the_masks_it_stopped_with(tmp_path: Path) -> None:
    network = masked_network()
    optimizer = torch.optim.SGD(scores_for_mask(network), lr=1.0)
    torch.autograd.backward(loss_of(network))
    optimizer.step()
    torch.save(network.state_dict(), tmp_path / "state")
    other = masked_network()
    other(IMAGES)
    other.load_state_dict(torch.load(tmp_path / "state"))
    assert is_fresh(other)
    assert torch.equal(layer_of(other).mask(), layer_of(network).mask())


@pytest.mark.parametrize("change", [nn.Module.double, nn.Module.half, lambda network: network.bfloat16()])
def test_a_network_of_another_precision_computes_in_it(change: Callable[[nn.Module], nn.Module]) -> None:
    network = masked_network()
    network(IMAGES)
    layer = layer_of(change(network))
    assert layer.masked_weight().dtype == layer.weight.dtype
    assert torch.equal(layer.masked_weight(), layer.weight * layer.mask())


def test_a_masked_weight_lies_in_memory_as_its_weight_does() -> None:
    network = masked_network()
    network(IMAGES)
    layer = layer_of(network.to(memory_format=torch.channels_last))
    assert layer.masked_weight().is_contiguous(memory_format=torch.channels_last)
    assert is_fresh(network)


def test_under_autocast_masked_weights_are_made_in_its_precision_and_stay_so_over_a_step() -> None:
    method = Counting(0.4)
    network = masked_network(method)
    optimizer = torch.optim.SGD(scores_for_mask(network), lr=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.autograd.backward(loss_of(network))
        optimizer.step()
        weight = layer_of(network).masked_weight()
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, (layer_of(network).weight * layer_of(network).mask()).bfloat16())
    assert method.chosen == 6 + 1
    assert is_fresh(network)


def test_what_was_made_in_inference_mode_can_be_trained_with() -> None:
    network = masked_network()
    with torch.inference_mode():
        network(IMAGES)
    torch.autograd.backward(loss_of(network))
    assert all(scores.grad is not None for scores in scores_for_mask(network))


def test_a_network_built_in_inference_mode_is_made_anew_each_time() -> None:
    with torch.inference_mode():
        network = masked_network()
        for _ in range(2):
            assert is_fresh(network)
            shuffle_(scores_for_mask(network)[0])


def test_scores_changed_between_forward_and_backward_are_an_error_as_a_weight_is() -> None:
    network = masked_network()
    loss = loss_of(network)
    shuffle_(scores_for_mask(network)[0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


def test_a_score_that_becomes_nan_in_a_step_is_an_error_of_the_next_forward_pass() -> None:
    network = masked_network()
    network(IMAGES)
    optimizer = torch.optim.SGD(scores_for_mask(network), lr=1.0)
    for scores in scores_for_mask(network):
        scores.grad = torch.full_like(scores, torch.nan)
    optimizer.step()
    for _ in range(2):
        with pytest.raises(UserError, match="a score is NaN"):
            network(IMAGES)


def test_a_network_unmasked_has_nothing_left_and_can_be_masked_again() -> None:
    network = masked_network()
    network(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        unmask_(network)
    assert not {"cached", "externally_refreshed"} & vars(network.get_submodule("0")).keys()
    assert is_fresh(mask_(network, EdgePopup(0.2)))


def test_layers_that_are_gone_are_forgotten() -> None:
    network = masked_network()
    network(IMAGES)
    before = len(cached_weight._layers)
    del network
    assert len(cached_weight._layers) == before - 3
