"""The operations that units are followed through, and the errors that name the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unit_networks import Net, conv, edges, ones

from lightning_subnets.errors import UserError
from lightning_subnets.graph.unit_tracing import trace


@pytest.mark.parametrize(
    ("operation", "function"),
    [
        ("aten.cumsum", lambda a, b, images: b(a(images).cumsum(1).mean((2, 3)))),
        (
            "aten.conv2d",
            lambda a, b, images: b(nn.functional.conv2d(images, a(images)[:, :3].repeat(2, 1, 1, 1)).mean((2, 3))),
        ),
        ("aten.mul", lambda a, b, images: images.mean((1, 2, 3))[:, None, None] * b.weight),
        ("aten.einsum", lambda a, b, images: b(torch.einsum("...hw->...", a(images)))),
    ],
)
def test_an_operation_that_units_cannot_be_followed_through_is_named(
    operation: str, function: Callable[[nn.Module, nn.Module, Tensor], Any]
) -> None:
    with pytest.raises(UserError, match=rf"units of Net cannot be followed through {operation}.*not need paths"):
        trace(Net(conv(3, 4), nn.Linear(4, 2), function), (3, 4, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b, images: b(torch.where(torch.ones(4, 4).bool(), a(images), 0.0).mean((2, 3))),
        lambda a, b, images: b(a(images).max(3)[0].max(2).values),
        lambda a, b, images: torch.addmm(b.bias, a(images).amax((2, 3)), b.weight.T),
        lambda a, b, images: (b(a(images).unfold(2, 2, 2).mean((2, 3, 4))), None, 3),
        lambda a, b, images: {"logits": b(nn.functional.prelu(a(images), torch.zeros(4)).view(-1, 4, 16).mean(2))},
        lambda a, b, images: b(a(images).mean((2, 3))[0]),
        lambda a, b, images: b(torch.einsum("bchw,bchw->bc", 2 * [a(images)])),
        lambda a, b, images: b(torch.einsum("bchw,hw", a(images), torch.ones(4, 4))),
    ],
    ids=["where", "max", "addmm", "unfold", "dict", "without a batch", "a factor twice", "no arrow"],
)
def test_other_operations_that_keep_channels(function: Callable[[nn.Module, nn.Module, Tensor], Any]) -> None:
    network = Net(conv(3, 4), nn.Linear(4, 2), function)
    graph = trace(network, (3, 4, 4))
    assert edges(graph, "b.weight").targets.tolist() == graph.outputs.tolist()
    assert len(edges(graph, "b.weight").sources) == 4
    assert 10 ** graph.log_paths(ones(network))[graph.outputs] == pytest.approx([3 * 9 * 4] * 2)


def test_a_weight_whose_zeros_are_no_missing_edges_is_named() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.conv2d(images, self.weight - self.weight.mean((1, 2, 3), keepdim=True))

    network = Net(Standardised(3, 4, 3), nn.Linear(4, 2), lambda a, b, images: b(a(images).mean((2, 3))))
    with pytest.raises(
        UserError, match=r"followed through aten.mean.dim: it uses a.weight, but not as the weight of a"
    ):
        trace(network, (3, 4, 4))


def test_blocks_without_gradients_and_of_another_dtype_are_part_of_the_forward_pass() -> None:
    def blocks(a: nn.Module, b: nn.Module, images: Tensor) -> Any:
        with torch.no_grad():
            features = a(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = b((features + images).mean((2, 3)))
        return out.float()

    def plain(a: nn.Module, b: nn.Module, images: Tensor) -> Any:
        return b((a(images) + images).mean((2, 3)))

    a, b = conv(3, 3), nn.Linear(3, 2)
    found, expected = (trace(Net(a, b, forward), (3, 4, 4)) for forward in (blocks, plain))
    assert found.num_units == expected.num_units
    assert found.outputs.tolist() == expected.outputs.tolist()
    for here, there in zip(found.steps, expected.steps, strict=True):
        assert type(here) is type(there)
        assert (here.sources.tolist(), here.targets.tolist()) == (there.sources.tolist(), there.targets.tolist())
