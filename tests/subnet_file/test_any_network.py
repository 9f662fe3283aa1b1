"""Networks with attention, tokens, tables, dense weights, tied weights and own densities are restored to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_subnets import Transformer, batches, changed, check_restored, content, differing, saved, train_, unmasked
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.masking.initialization import draw_weights
from lightning_subnets.subnet_file import load_subnet, save_subnet

NAME = "of_mine.Transformer"


def masked(method: ls.Method, network: nn.Module | None = None, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"weights": "kaiming_normal", "seed": 3, "batches": batches()}
    network = ls.mask_(network or Transformer(), method, **(defaults | options))
    train_(network)
    return network


CASES: dict[str, tuple[ls.Method, dict[str, Any]]] = {
    "scores": (ls.EdgePopup(0.3), {}),
    "default": (ls.EdgePopup(0.3), {"weights": "auto"}),
    "global": (ls.EdgePopup(0.3, allocation="global"), {}),
    "signs": (ls.Biprop(0.5), {"also_mask": ["kinds"]}),
    "redrawn": (ls.IteRand(0.5, every=1), {"densities": {"head": 0.9}, "weights": "scaled_kaiming_normal"}),
    "sampled": (ls.Supermask(0.3, dynamic_scaling=True), {}),
    "weights trained": (ls.Random(0.3), {"keep_dense": ["patches"]}),
    "weights trained by rank": (ls.DNW(0.3), {"densities": {"head.weight": 0.8}}),
    "pruned at initialization": (ls.SNIP(0.3), {}),
    "embedding": (ls.EdgePopup(0.5), {"also_mask": ["kinds.weight", "cls_token"]}),
    "dense head": (ls.EdgePopup(0.5), {"keep_dense": ["head"]}),
    "dense embedding": (ls.EdgePopup(0.5), {"also_mask": ["kinds"], "keep_dense": ["kinds"]}),
    "densities": (ls.EdgePopup(0.5), {"weights": "scaled_kaiming_normal", "densities": {"*in_proj_weight": 0.1}}),
    "first density": (ls.EdgePopup(0.5), {"weights": "scaled_signed_constant", "densities": {"patches": 1.0}}),
    "pretrained": (ls.EdgePopup(0.5), {"weights": None, "keep_dense": ["patches"], "densities": {"head": 0.7}}),
    "pretrained and trained": (ls.Random(0.5), {"weights": None}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_network_with_attention_is_restored_and_continues_training(case: str, tmp_path: Path) -> None:
    method, options = CASES[case]
    network = masked(method, **options)
    again = check_restored(network, tmp_path / "a.subnet", NAME, Transformer)
    images = batches()[0][0]
    plain = load_subnet(tmp_path / "a.subnet", network=Transformer())
    with torch.no_grad():
        assert torch.equal(plain(images), unmasked(network)(images))
        if not method.draws_masks:
            assert torch.equal(again.eval()(images), network.eval()(images))
    before = {name: each.clone() for name, each in again.named_parameters() if each.requires_grad}
    kept = ls.density(again, per_weight=True)
    torch.manual_seed(0)
    assert torch.tensor(train_(again)).isfinite()
    assert any(not torch.equal(each, before[name]) for name, each in again.named_parameters() if name in before)
    for name, weight in ls.masked_weights(again).items():
        assert weight.origin == ls.masked_weights(network)[name].origin
        if weight.num_kept is not None and not method.draws_masks:
            assert ls.density(again, per_weight=True)[name] == kept[name]


def test_everything_that_the_seed_gives_is_left_out(tmp_path: Path) -> None:
    network = masked(ls.EdgePopup(0.3), keep_dense=["head"])
    header, tensors = content(saved(tmp_path / "a.subnet", network, network=NAME))
    assert {name.partition("/")[0] for name in tensors} == {"mask"}
    assert header["dense"] == {"head.weight": "head"}
    assert torch.equal(network.head.weight, draw_weights("kaiming_normal", (10, 8), seed=3, stream="head"))  # type: ignore
    trained = masked(ls.Random(0.3), keep_dense=["head"])
    header, tensors = content(saved(tmp_path / "b.subnet", trained, network=NAME))
    assert header["dense"] == {}
    assert {"state/head.weight", "state/cls_token", "state/pos_embed", "state/kinds.weight"} <= tensors.keys()


class Built(nn.Module):
    """Has a parameter that no rule knows, built with different numbers or with equal ones."""

    def __init__(self, numbers: Tensor) -> None:
        super().__init__()
        self.linear, self.mystery = nn.Linear(4, 3), nn.Parameter(numbers)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images + self.mystery)
        return logits


def test_a_parameter_is_restored_whatever_value_it_is_built_with(tmp_path: Path) -> None:
    values = torch.randn(4), torch.zeros(4), torch.full((4,), torch.nan)
    for here in values[:2]:
        network = ls.mask_(Built(here), ls.EdgePopup(0.5))
        save_subnet(network, tmp_path / "a.subnet", network=NAME, force=True)
        for there in values:
            found = load_subnet(tmp_path / "a.subnet", network=Built(there))
            assert not differing(found, unmasked(network))


def test_a_bias_of_minus_zero_is_restored(tmp_path: Path) -> None:
    network = ls.mask_(nn.Sequential(nn.Linear(4, 3)), ls.EdgePopup(0.5))
    nn.init.constant_(network[0].bias, -0.0)  # type: ignore[arg-type]
    save_subnet(network, tmp_path / "a.subnet", network=NAME)
    assert (
        load_subnet(tmp_path / "a.subnet", network=nn.Sequential(nn.Linear(4, 3)))
        .get_parameter("0.bias")
        .signbit()
        .all()
    )


def test_a_dense_weight_that_looks_like_a_scale_is_restored(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 10), nn.Linear(10, 1))

    network = build()
    nn.init.ones_(network.get_parameter("1.weight"))
    ls.mask_(network, ls.EdgePopup(0.5), weights=None, keep_dense=["1"])
    check_restored(network, tmp_path / "a.subnet", NAME, build)


class Tied(nn.Module):
    """An autoencoder of words whose decoder has the weight of the embedding, or a Linear of another Linear."""

    def __init__(self, embedding: bool) -> None:
        super().__init__()
        self.first: nn.Module = nn.Embedding(10, 64) if embedding else nn.Linear(64, 10)
        self.inner = nn.Linear(64, 64)
        self.last = nn.Linear(64, 10)
        self.last.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.inner(images.flatten(1)).relu())
        return logits


@pytest.mark.parametrize(
    ("embedding", "options"),
    [
        (False, {}),
        (False, {"keep_dense": ["first"]}),
        (True, {"also_mask": ["first"]}),
        (True, {"keep_dense": ["first"]}),
    ],
)
@pytest.mark.parametrize("method", [ls.EdgePopup(0.3), ls.Random(0.3)], ids=str)
def test_a_tied_weight_is_restored_in_all_its_modules(
    method: ls.Method, embedding: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    def build() -> nn.Module:
        return Tied(embedding)

    network = masked(method, build(), **options)
    again: Any = check_restored(network, tmp_path / "a.subnet", NAME, build)
    plain: Any = load_subnet(tmp_path / "a.subnet", network=build())
    for found in (again, plain):
        assert found.first._parameters["weight"] is found.last._parameters["weight"]
    assert not [name for name in content(tmp_path / "a.subnet")[1] if "last.weight" in name]


def test_a_module_that_is_used_twice_is_restored_in_the_dtype_of_its_weight(tmp_path: Path) -> None:
    def build() -> nn.Module:
        layer = nn.Linear(4, 4)
        return nn.Sequential(layer, nn.ReLU(), layer)

    network = ls.mask_(build().bfloat16(), ls.EdgePopup(0.5))  # its scores are float32
    check_restored(network, tmp_path / "a.subnet", NAME, build)


class Odd(nn.Module):
    """Has weights whose names are patterns, each of which would match the next name too."""

    def __init__(self) -> None:
        super().__init__()
        names = ["*_weight", "?_weight", "a_weight", "[ab]_weight", "weight_[!a]", "weight_b", "weight_\n"]
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.randn(64, 10)) for name in names})

    def forward(self, images: Tensor) -> Tensor:
        every: list[Tensor] = [getattr(self.weights, name) for name in self.weights]
        return images.flatten(1) @ torch.stack(every).sum(0)


@pytest.mark.parametrize("dense", ["[*]_weight", "[?]_weight", "[[]ab]_weight", "weight_[[]!a]"])
def test_a_name_that_is_a_pattern_names_one_weight(dense: str, tmp_path: Path) -> None:
    network = masked(ls.EdgePopup(0.3), Odd(), keep_dense=[f"weights.{dense}"])
    assert len(ls.masked_weights(network)) == 6
    check_restored(network, tmp_path / "a.subnet", NAME, Odd)


def test_a_number_kept_that_was_set_by_hand_is_restored(tmp_path: Path) -> None:
    network = masked(ls.EdgePopup(0.3))
    for kept, weight in enumerate(ls.masked_weights(network).values(), start=20):
        weight.state.num_kept = kept
    ls.invalidate_(network)
    again = check_restored(network, tmp_path / "a.subnet", NAME, Transformer)
    assert [weight.num_kept for weight in ls.masked_weights(again).values()] == list(range(20, 26))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header["dense"].update({"nothing": ""}), "the weight 'nothing' has shape None .* and None"),
        (lambda header: header["dense"].update({"head.bias": ""}), "the weight 'head.bias' has shape None .* \\[10\\]"),
        (lambda header: header["dense"].update({"pos_embed": ""}), "the weight 'pos_embed' has shape None"),
        (lambda header: header["dense"].update({"kinds.weight": ""}), "the weight 'kinds.weight' has shape None"),
        (lambda header: header["dense"].update({"patches.weight": ""}), "the weight 'patches.weight' has shape"),
        (lambda header: header["dense"].update({"*": ""}), "the weight '[*]' has shape None"),
        (lambda header: header["dense"].clear(), "the weight 'head.weight' has shape None in the file and \\[10, 8\\]"),
        (lambda header: header["dense"].update({"head.weight": "other"}), "the weights have the digest"),
        (lambda header: header["dense"].update({"head.weight": "\ud800"}), "header.dense.* is not a text"),
        (lambda header: header["layers"].pop("patches.weight"), "the weight 'patches.weight' has shape None"),
        (lambda header: header["layers"].update({"*.weight": header["layers"]["patches.weight"]}), "the weight '\\*.w"),
        (lambda header: header["layers"].update({"scores": header["layers"]["patches.weight"]}), "the weight 'scores'"),
        (lambda header: header["layers"]["patches.weight"].update(density=0.0), "a density of 0.0, outside"),
        (lambda header: header["layers"]["patches.weight"].update(num_kept=-1), "training cannot keep -1 numbers"),
        (lambda header: header["layers"]["patches.weight"].update(num_kept=10**9), "training cannot keep 1000000000"),
        (lambda header: header["layers"]["patches.weight"].update(num_kept=5), "does not give the masks in the file"),
        (lambda header: header["layers"]["patches.weight"].update(stream="\ud800"), "stream is not a text"),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_the_network_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.subnet", masked(ls.EdgePopup(0.3), keep_dense=["head"]), network=NAME)
    with changed(path) as (header, _):
        change(header)
    with pytest.raises(ls.UserError, match=message):
        load_subnet(path, network=Transformer(), masked=True)
    if "masks" not in message:
        with pytest.raises(ls.UserError, match=message):
            load_subnet(path, network=Transformer())


def test_a_dense_weight_of_a_file_without_a_distribution_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet", masked(ls.Random(0.3), weights=None, keep_dense=["head"]), network=NAME)
    with changed(path) as (header, tensors):
        header["dense"]["head.weight"] = "head"
        del tensors["state/head.weight"]
    for as_masked in (False, True):
        with pytest.raises(ls.UserError, match=r"the weight of the stream 'head' is drawn, but the file"):
            load_subnet(path, network=Transformer(), masked=as_masked)


def test_a_network_that_cannot_be_masked_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.subnet", ls.mask_(nn.Sequential(nn.Linear(4, 3)), ls.EdgePopup(0.5)), network=NAME)
    for network, message in (
        (nn.Sequential(nn.LazyLinear(3)), "is lazy"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))), "the weight '0.weight' has shape"),
    ):
        with pytest.raises(ls.UserError, match=message):
            load_subnet(path, network=network)


class Rotating(nn.Module):
    """Has tables that are not in its state dict: a complex one, and one of a finer dtype than its weights."""

    turns: Tensor
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("turns", torch.polar(torch.ones(4), torch.arange(4.0)), persistent=False)
        self.register_buffer("table", torch.arange(8, dtype=torch.float64) / 3, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.view_as_complex(self.linear(x).view(-1, 4, 2)) * self.turns
        return torch.view_as_real(turned).flatten(1) + self.table


@pytest.mark.parametrize("as_masked", [False, True])
def test_tables_outside_the_state_dict_keep_their_numbers(as_masked: bool, tmp_path: Path) -> None:
    network, x = ls.mask_(Rotating(), ls.EdgePopup(0.5)).eval(), torch.randn(3, 8)
    save_subnet(network, tmp_path / "a.subnet", network="of_mine.Rotating")
    again = load_subnet(tmp_path / "a.subnet", masked=as_masked, network=Rotating()).eval()
    assert torch.equal(again(x), network(x))


def test_complex_tables_stay_complex_if_the_dtype_changes(tmp_path: Path) -> None:
    network, x = ls.mask_(Rotating(), ls.EdgePopup(0.5)).double().eval(), torch.randn(3, 8).double()
    save_subnet(network, tmp_path / "a.subnet", network="of_mine.Rotating")
    again = load_subnet(tmp_path / "a.subnet", network=Rotating())
    torch.testing.assert_close(again(x), network(x))


def test_a_layer_that_keeps_the_methods_density_among_those_of_an_allocation_is_restored(tmp_path: Path) -> None:
    network = masked(ls.EdgePopup(0.3, allocation="erk"), densities={"patches": 0.3})
    check_restored(network, tmp_path / "a.subnet", NAME, Transformer)
