"""Every reader of a masked weight gets the effective weight, whatever module it belongs to."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from lightning_subnets import (
    Biprop,
    EdgePopup,
    Magnitude,
    Method,
    UserError,
    mask_,
    masked_weights,
    masks,
    raw_weight,
    save_subnet,
    unmask_,
)
from lightning_subnets.graph.diagnostics import log10_path_kernel_trace
from lightning_subnets.masking.masked_weight import scores_names


class Half(EdgePopup):
    """The effective weight is w * m / 2, so a weight that is read without its mask, or masked twice, is noticed."""

    def effective_weight(self, weight: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mul(weight, mask, out=out).mul_(0.5)

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        return 0.5 * super().score_gradient(gradient, weight, scores)


class Subclass(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight / self.weight.norm(), self.bias)


class Functional(nn.Module):
    """A head that reads the weight of a layer without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.layer.weight, self.layer.bias).relu()


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        result: Tensor = self.attention(x, x, x)[0]
        return result.squeeze(1)


class Standardized(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2), keepdim=True)
        return functional.conv1d(input, weight, self.bias, padding=1)


class Reshaped(nn.Module):
    """Give a layer inputs of another shape: features (batch, 8) as (batch, *shape) and back."""

    def __init__(self, layer: nn.Module, *shape: int) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x.view(-1, *self.shape)).flatten(1)
        return result


class Pair(nn.Bilinear):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(8, 8),
    "subclass": lambda: Subclass(8, 8),
    "functional": Functional,
    "conv1d": lambda: Reshaped(nn.Conv1d(1, 1, 3, padding="same"), 1, 8),
    "conv2d": lambda: Reshaped(nn.Conv2d(2, 2, 2, padding="same", padding_mode="circular"), 2, 2, 2),
    "conv3d": lambda: Reshaped(nn.Conv3d(1, 1, 1), 1, 2, 2, 2),
    "transposed": lambda: Reshaped(nn.ConvTranspose1d(2, 2, 1), 2, 4),
    "standardized": lambda: Reshaped(Standardized(1, 1, 3), 1, 8),
    "bilinear": lambda: Pair(8, 8, 8),
    "attention": Attention,
    "attention of other widths": lambda: Attention(kdim=8, vdim=8),
    "transformer": lambda: Reshaped(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 1, 8),
}


def network_with(name: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), LAYERS[name](), nn.Linear(8, 3))


INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def explicit(masked: nn.Module, plain: nn.Module) -> dict[str, Tensor]:
    """Return the state of the plain network with w * m / 2 in place of each weight."""
    state = {key: value for key, value in masked.state_dict().items() if key not in scores_names(masked)}
    return state | {name: each.weight.detach() * each.mask() / 2 for name, each in masked_weights(masked).items()}


@pytest.fixture(params=LAYERS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """Return a masked network and the same without masks."""
    network = network_with(request.param)
    return mask_(copy.deepcopy(network), Half(0.4), weights="kaiming_normal"), network


def test_a_network_computes_with_the_masked_weights(pair: tuple[nn.Module, nn.Module]) -> None:
    masked, plain = pair
    for mode in (True, False):
        masked.train(mode)
        plain.train(mode)
        assert torch.equal(masked(INPUTS), functional_call(plain, explicit(masked, plain), INPUTS))
    with torch.no_grad():  # the fused path of attention
        torch.testing.assert_close(masked(INPUTS), functional_call(plain, explicit(masked, plain), INPUTS))


def test_every_mask_has_its_exact_number_of_weights_and_every_score_a_gradient(
    pair: tuple[nn.Module, nn.Module],
) -> None:
    masked, _ = pair
    masked(INPUTS).square().sum().backward()
    for weight in masked_weights(masked).values():
        n = weight.weight.numel()
        assert int(weight.mask().sum()) == weight.num_kept == n - int(0.6 * n)
        assert weight.weight.grad is None
        assert weight.scores is not None
        assert weight.scores.grad is not None
        assert weight.scores.grad.shape == weight.weight.shape


def test_the_gradient_of_the_scores_is_that_of_the_explicit_product(pair: tuple[nn.Module, nn.Module]) -> None:
    masked, plain = pair
    masked, plain, inputs = masked.double(), plain.double(), INPUTS.double()
    state = explicit(masked, plain)
    weights = {name: state[name].requires_grad_() for name in masked_weights(masked)}
    functional_call(plain, state, inputs).square().sum().backward()
    masked(inputs).square().sum().backward()
    for name, each in masked_weights(masked).items():
        assert each.scores is not None
        gradient = weights[name].grad
        assert gradient is not None
        expected = each.scores.sign() * each.weight * 0.5 * gradient
        torch.testing.assert_close(each.scores.grad, expected)


def test_copies_compute_the_same_by_themselves_and_unmasking_folds_the_weights(
    pair: tuple[nn.Module, nn.Module],
) -> None:
    masked, plain = pair
    masked.eval()
    outputs, classes = masked(INPUTS), [type(module) for module in plain.modules()]
    keys = list(plain.state_dict())
    assert [key for key in masked.state_dict() if key not in scores_names(masked)] == keys
    copies = [copy.deepcopy(masked), copy.deepcopy(masked)]
    if "Local" not in repr(classes):
        copies.append(pickle.loads(pickle.dumps(masked)))
    for other in copies:
        assert torch.equal(other(INPUTS), outputs)
        with torch.no_grad():
            for weight in masked_weights(other).values():
                assert weight.scores is not None
                weight.scores.copy_(torch.rand_like(weight.scores))
        assert not torch.equal(other(INPUTS), outputs)
    assert torch.equal(masked(INPUTS), outputs)
    assert torch.equal(unmask_(masked)(INPUTS), outputs)
    assert [type(module) for module in masked.modules()] == classes
    assert list(masked.state_dict()) == keys
    assert not any("_masked" in vars(module) for module in masked.modules())


def test_the_loaded_state_of_another_network_is_used(pair: tuple[nn.Module, nn.Module]) -> None:
    masked, plain = pair
    other = mask_(copy.deepcopy(plain), Half(0.4), weights="kaiming_normal", seed=4).eval()
    masked.eval()(INPUTS)
    masked.load_state_dict(other.state_dict())
    assert torch.equal(masked(INPUTS), other(INPUTS))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["functional", "attention", "standardized"])
def test_a_network_compiles_into_one_graph(name: str) -> None:
    masked = mask_(network_with(name), Half(0.4), weights="kaiming_normal")
    compiled = torch.compile(masked, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(INPUTS), masked(INPUTS))


def test_an_attribute_error_while_masks_are_computed_does_not_give_the_weight_without_its_mask() -> None:
    class Broken(EdgePopup):
        def masks(self, weights: Any) -> Any:
            raise AttributeError("broken")

    masked = mask_(nn.Linear(4, 4), Broken(0.5))
    with pytest.raises(RuntimeError, match="cannot be computed: broken"):
        masked(torch.ones(1, 4))


def test_a_module_gets_no_attribute_that_could_hide_its_own() -> None:
    layer = nn.Linear(4, 4)
    before = set(dir(layer))
    mask_(layer, EdgePopup(0.5))
    assert set(dir(layer)) - before == {"_masked", "_trained_before_masking", "scores"}
    assert (type(layer).__module__, type(layer).__qualname__) == (nn.Linear.__module__, "Linear")
    assert repr(layer) == "MaskedLinear(in_features=4, out_features=4, bias=True, density=0.5)"
    layer.mask, layer.method = "mine", "mine too"  # type: ignore[assignment]
    layer(torch.ones(1, 4))


MISTAKES: dict[str, Callable[[nn.Module], Any]] = {
    "masked already": lambda layer: mask_(layer, EdgePopup(0.5)),
    "has no parameter 'wait'": lambda layer: raw_weight(layer, "wait"),
    "does not compute in float64": lambda layer: log10_path_kernel_trace(layer, masks(layer), (5,)),
    "no function of torchvision.models builds this": lambda layer: save_subnet(layer, "never_written.subnet"),
    "has no attribute 'wait'": lambda layer: layer.wait,
}


@pytest.mark.parametrize(("message", "mistake"), MISTAKES.items(), ids=MISTAKES)
def test_an_error_names_the_class_that_the_user_wrote(message: str, mistake: Callable[[nn.Module], Any]) -> None:
    with pytest.raises((UserError, AttributeError), match=message) as raised:
        mistake(mask_(nn.Linear(4, 4), EdgePopup(0.5)))
    assert "Linear" in str(raised.value)
    assert "MaskedLinear" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm_which_replaces_a_weight_is_refused() -> None:
    with pytest.raises(UserError, match=r"of a masked Linear cannot be replaced, .*: build the network again"):
        nn.utils.weight_norm(mask_(nn.Linear(4, 4), EdgePopup(0.5)))


def test_a_weight_is_found_by_its_name_and_not_by_a_suffix_of_another() -> None:
    module = nn.Module()
    module.weight_table, module.weights = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    module.reweight, module.lone_weight = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 1, 1))
    mask_(module, EdgePopup(0.5))
    assert list(masked_weights(module)) == ["weight_table"]


@pytest.mark.parametrize("names", [["scores"], ["weight", "scores", "bias"]])
def test_torch_func_computes_the_gradient_of_the_scores(names: list[str]) -> None:
    masked = mask_(nn.Linear(4, 2), EdgePopup(0.5), weights="kaiming_normal")
    parameters = {name: each.detach() for name, each in masked.named_parameters() if name in names}
    x = torch.randn(3, 4)

    def loss(values: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(masked, values, x).square().sum()
        return result

    found = torch.func.grad(loss)(parameters)
    masked(x).square().sum().backward()
    expected = masked.get_parameter("scores").grad
    assert expected is not None
    assert torch.equal(found["scores"], expected)


@pytest.mark.parametrize("method", [EdgePopup(0.5, allocation="global"), Biprop(0.5), Magnitude(0.5)], ids=repr)
def test_torch_func_computes_the_gradient_of_whatever_a_method_trains(method: Method) -> None:
    masked = mask_(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)), method, weights="kaiming_normal")
    trained = {name: each for name, each in masked.named_parameters() if each.requires_grad}
    x = torch.randn(3, 4)

    def loss(values: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(masked, values, x).square().sum()
        return result

    found = torch.func.grad(loss)({name: each.detach() for name, each in trained.items()})
    masked(x).square().sum().backward()
    for name, parameter in trained.items():
        assert parameter.grad is not None
        assert torch.equal(found[name], parameter.grad), name


def test_fx_keeps_a_masked_layer_as_a_leaf() -> None:
    traced = torch.fx.symbolic_trace(mask_(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), EdgePopup(0.5)))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "call_module", "output"]
