"""A mask for each task: answers that never change, and one gradient that equals autograd's through the mixture."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import lightning_subnets as ls
from lightning_subnets.masking.method import Method

IMAGES = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class TinyNet(nn.Module):
    """A network with a norm whose statistics and, if they are trained, scales differ between tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.norm(self.conv(images)).relu().flatten(1))
        return logits


def masked(method: Method | None = None, **options: Any) -> nn.Module:
    defaults: dict[str, Any] = {"weights": "kaiming_normal", "seed": 3}
    return ls.mask_(TinyNet().double(), method or ls.EdgePopup(0.3), **(defaults | options))


def task_images(task: int) -> Tensor:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(task))
    return IMAGES.flatten(2)[..., order].view_as(IMAGES)


def train_(net: nn.Module, task: int, steps: int = 5) -> None:
    optimizer = torch.optim.SGD([each for each in net.parameters() if each.requires_grad], lr=1.0)
    for _ in range(steps):
        loss = functional.cross_entropy(net.train()(task_images(task)), torch.arange(20) % 5)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


@torch.no_grad()
def answers(net: nn.Module, task: int) -> Tensor:
    logits: Tensor = copy.deepcopy(net).eval()(task_images(task))
    return logits


def learned(net: nn.Module, tasks: int = 4) -> tuple[ls.SupSup, list[Tensor]]:
    """Return the tasks after training on each, and the answers of each as it was just trained."""
    found, first = ls.SupSup(net), []
    for task in range(tasks):
        train_(net, task)
        first.append(answers(net, task))
        found.add(f"task {task}", accuracy=task / 10)
    return found, first


KINDS: dict[str, Callable[[], nn.Module]] = {
    "edge-popup": masked,
    "flips and levels": partial(masked, ls.Multicoated(0.5, signed=True, frozen=0.2)),
    "gain": partial(masked, ls.Biprop(0.3)),
    "thresholds": partial(masked, ls.SignedSupermask(0.5)),
    "trained norms": partial(masked, norms="trained"),
}
every_kind = pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)


@every_kind
def test_the_slopes_are_the_gradient_of_the_entropy_by_the_coefficients(build: Callable[[], nn.Module]) -> None:
    tasks, _ = learned(build())
    networks = [dict(tasks.network(name).state_dict()) for name in tasks.names]
    coefficients = torch.full((4,), 0.25, dtype=torch.float64, requires_grad=True)
    mixture = {}
    for key, value in networks[0].items():
        if key in ls.masked_weights(tasks.net):
            mixture[key] = sum(a * each[key] for a, each in zip(coefficients, networks, strict=True))
        elif value.is_floating_point():
            mixture[key] = sum(each[key] for each in networks) / 4
    plain = TinyNet().double().eval()
    chances = functional_call(plain, mixture, (IMAGES,)).softmax(dim=1)
    entropy = torch.special.entr(chances).sum(dim=1).mean()
    (gradient,) = torch.autograd.grad(entropy, coefficients)
    assert gradient.abs().min() > 1e-6
    slopes = torch.tensor([*tasks.slopes(IMAGES).values()], dtype=torch.float64)
    torch.testing.assert_close(slopes, -gradient, rtol=1e-9, atol=0)
    assert tasks.infer(IMAGES) == tasks.names[int(gradient.argmin())]


@every_kind
def test_the_answers_of_a_task_never_change(build: Callable[[], nn.Module]) -> None:
    tasks, first = learned(build())
    for task, name in enumerate(tasks.names):
        plain = tasks.network(name)
        assert torch.equal(answers(plain, task), first[task])
        assert not plain.training
        assert {*plain.state_dict()} == {*TinyNet().state_dict()}
    assert len({float(each.sum()) for each in first}) == 4


def test_a_task_that_diverges_changes_no_answer_of_the_others() -> None:
    net = masked()
    tasks, first = learned(net, 2)
    with torch.no_grad():
        for weight in ls.masked_weights(net).values():
            assert weight.scores is not None
            weight.scores.fill_(float("nan"))
    assert torch.equal(answers(tasks.network("task 0"), 0), first[0])
    assert tasks.infer(task_images(0)) in tasks.names


@every_kind
def test_each_task_starts_where_the_first_one_did(build: Callable[[], nn.Module]) -> None:
    net, untouched = build(), build()
    tasks, _ = learned(net, 2)
    assert all(torch.equal(each, untouched.state_dict()[key]) for key, each in net.state_dict().items())
    train_(untouched, 7)
    train_(net, 7)
    assert torch.equal(answers(net, 7), answers(untouched, 7))
    assert tasks.names == ["task 0", "task 1"]


def test_a_batch_of_unlabelled_images_tells_its_task() -> None:
    net = ls.mask_(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 40)).double(), ls.EdgePopup(0.3)
    )
    tasks = ls.SupSup(net)
    for task in range(4):
        train_(net, task, steps=20)
        tasks.add(str(task))
        assert tasks.infer(task_images(task)) == str(task)
    assert [tasks.infer(task_images(task)) for task in range(4)] == ["0", "1", "2", "3"]


def test_mistakes_say_what_to_do() -> None:
    with pytest.raises(ls.UserError, match=r"call mask_\(network"):
        ls.SupSup(TinyNet())
    with pytest.raises(
        ls.UserError, match="IteRand changes weights: take a method that trains scores and nothing else, such as Ed"
    ):
        ls.SupSup(masked(ls.IteRand(0.3)))
    with pytest.raises(ls.UserError, match="Random changes weights"):
        ls.SupSup(masked(ls.Random(0.3)))
    with pytest.raises(ls.UserError, match=r"'conv.weight' does not come from the seed"):
        ls.SupSup(masked(weights=None))
    changed = masked()
    with torch.no_grad():
        ls.raw_weight(changed.get_submodule("fc"))[0, 0] += 1
    with pytest.raises(ls.UserError, match=r"'fc.weight' has changed since it was drawn"):
        ls.SupSup(changed)
    tasks = ls.SupSup(masked())
    with pytest.raises(ls.UserError, match="no tasks to choose from"):
        tasks.infer(IMAGES)
    tasks.add("a")
    for name in ("a", ""):
        with pytest.raises(ls.UserError, match="name the task differently"):
            tasks.add(name)
    with pytest.raises(ls.UserError, match=r"unknown task 'b'.*Known: a"):
        tasks.network("b")
    with pytest.raises(ls.UserError, match="check that the images are finite"):
        tasks.infer(IMAGES * torch.nan)
    with torch.no_grad():
        tasks.net.get_parameter("fc.bias").add_(1)
    with pytest.raises(ls.UserError, match="frozen weights have changed"):
        tasks.add("b")


def test_a_task_is_inferred_in_inference_mode_too() -> None:
    tasks, _ = learned(masked(), 2)
    with torch.inference_mode():
        found = tasks.slopes(IMAGES + 0)  # a tensor of inference mode
    assert found == tasks.slopes(IMAGES)


@pytest.mark.parametrize("before", [False, True], ids=["", "inferred before"])
def test_a_task_is_inferred_in_the_precision_that_the_network_has_now(before: bool) -> None:
    (tasks, _), (same, _) = learned(masked(), 2), learned(masked(), 2)
    if before:
        tasks.slopes(IMAGES)
    tasks.net.float()
    assert tasks.slopes(IMAGES.float()) == pytest.approx(same.slopes(IMAGES), rel=1e-3, abs=1e-5)
