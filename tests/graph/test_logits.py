"""Networks that return an object with ``logits``, as those of Hugging Face do, give what the plain network gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_subnets import SNIP, EdgePopup, GraSP, Method, SupSup, SynFlow, UserError, mask_, masks
from lightning_subnets.experiments.continual.learning import _answers
from lightning_subnets.experiments.sanity import accuracy

IMAGES, LABELS = torch.randn(6, 3, 4, 4), torch.arange(6) % 3


class Returning(nn.Module):
    """A classifier that returns ``wrap(logits)``."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        self.wrap = wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.layers(images))


def plain() -> Returning:
    return Returning(lambda logits: logits)


def wrapped() -> Returning:
    return Returning(lambda logits: SimpleNamespace(loss=None, logits=logits))


@pytest.mark.parametrize("method", [SNIP(0.5), GraSP(0.5), SynFlow(0.5)], ids=repr)
def test_a_method_scores_the_logits_in_the_output(method: Method) -> None:
    found, expected = (
        masks(mask_(network, copy.deepcopy(method), batches=[(IMAGES, LABELS)])) for network in (wrapped(), plain())
    )
    assert all(torch.equal(mask, found[name]) for name, mask in expected.items())
    with pytest.raises(UserError, match=r"Returning returns a dict with the keys \['a'\]: return a tensor of logits"):
        mask_(Returning(lambda logits: {"a": logits}), method, batches=[(IMAGES, LABELS)])


def test_an_evaluation_reads_the_logits_in_the_output() -> None:
    assert accuracy(wrapped(), iter([(IMAGES, LABELS)])) == accuracy(plain(), iter([(IMAGES, LABELS)]))
    assert torch.equal(_answers(wrapped(), IMAGES), _answers(plain(), IMAGES))
    slopes = []
    for network in (wrapped(), plain()):
        tasks = SupSup(mask_(network, EdgePopup(0.5)))
        for name in "ab":
            tasks.add(name)
        slopes.append(tasks.slopes(IMAGES))
    assert slopes[0] == slopes[1]
