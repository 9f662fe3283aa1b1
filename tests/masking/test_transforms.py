"""Masked networks under the transforms of ``torch.func``, whichever tensors these wrap."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from lightning_subnets import (
    DNW,
    EdgePopup,
    Method,
    Multicoated,
    PartiallyFrozen,
    SignedSupermask,
    UserError,
    mask_,
    unmask_,
)

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

every_method = pytest.mark.parametrize(
    "method",
    [
        EdgePopup(0.5),
        EdgePopup(0.5, allocation="global"),
        SignedSupermask(0.5),
        PartiallyFrozen(0.5),
        Multicoated(0.5),
        DNW(0.5),
    ],
    ids=repr,
)

TRANSFORMS: dict[str, Callable[[nn.Module], Tensor]] = {
    "grad": lambda network: grad(lambda x: network(x).square().sum())(X),
    "jvp": lambda network: jvp(network, (X,), (X,))[1],
    "jacrev": lambda network: jacrev(network)(X[0]),
    "jacfwd": lambda network: jacfwd(network)(X[0]),
    "hessian": lambda network: hessian(lambda x: network(x).square().sum())(X[0]),
    "vmap": lambda network: vmap(network)(X),
}


def masked(method: Method) -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    return mask_(network, method, weights="kaiming_normal")


@every_method
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # forward mode compiles its formulas once
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_inputs_may_be_transformed(transform: str, method: Method) -> None:
    network = masked(method)
    found = TRANSFORMS[transform](network)
    torch.testing.assert_close(found, TRANSFORMS[transform](unmask_(network)))


@every_method
@pytest.mark.parametrize("layer", ["0.", "2."])
def test_the_parameters_of_one_layer_may_be_transformed(layer: str, method: Method) -> None:
    network = masked(method)
    some = {name: each for name, each in network.named_parameters() if name.startswith(layer) and each.requires_grad}

    def loss(values: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(network, values, (X,)).square().sum()
        return result

    found = grad(loss)({name: each.detach() for name, each in some.items()})
    torch.autograd.backward(network(X).square().sum())
    for name, parameter in some.items():
        assert parameter.grad is not None
        assert torch.equal(found[name], parameter.grad), name


@every_method
def test_each_sample_has_a_gradient_of_its_own(method: Method) -> None:
    network = masked(method)
    values = {name: each.detach() for name, each in network.named_parameters() if each.requires_grad}

    def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = functional_call(network, values, (x[None],)).square().sum()
        return result

    found = vmap(grad(loss), in_dims=(None, 0))(values, X)
    expected = [grad(loss)(values, x) for x in X]
    for name in values:
        torch.testing.assert_close(found[name], torch.stack([each[name] for each in expected]))


@every_method
def test_weights_and_scores_of_a_batch_are_refused(method: Method) -> None:
    network = masked(method)
    batch = {name: torch.stack([each.detach()] * 2) for name, each in network.named_parameters()}
    with pytest.raises(UserError, match=r"vmap over weights or scores .* would need a mask for each: map over the inp"):
        vmap(lambda values: functional_call(network, values, (X,)))(batch)
