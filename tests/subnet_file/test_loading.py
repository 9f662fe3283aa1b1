"""A network comes back from its file to the bit, plain or masked, whatever it was found by."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_subnets import (
    NAMED,
    WITH_NORMS,
    content,
    differing,
    masked,
    masked_with_norms,
    reloaded,
    saved,
    small,
    train_,
    unmasked,
    with_norms,
)
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.masking import MaskedLayer
from lightning_subnets.masking.digest import weights_digest
from lightning_subnets.masking.method import ScoredLayer
from lightning_subnets.subnet_file import load_subnet, save_subnet

sys.path.append(str(Path(__file__).parents[1] / "methods"))

from table import EVERY, Row

WEIGHTS = ["kaiming_normal", "signed_constant"]


def check_both(network: nn.Module, path: Path, name: Any = NAMED, fresh: nn.Module | None = None) -> nn.Module:
    """Plain and masked as it was, and saved again the same; gives the masked one."""
    save_subnet(network, path, network=name, force=True)
    plain = load_subnet(path, network=fresh)
    assert not differing(plain, unmasked(network))
    assert not plain.training
    assert not any(isinstance(module, MaskedLayer) for module in plain.modules())
    assert all(parameter.requires_grad for parameter in plain.parameters())
    if fresh is not None:
        return plain
    again = load_subnet(path, masked=True)
    assert again.training
    assert not differing(unmasked(again), plain)
    for (_, one), (_, other) in zip(ls.masked_layers(network), ls.masked_layers(again), strict=True):
        assert torch.equal(one.mask(), other.mask())
        assert one.num_kept == other.num_kept
        if not one.weight.requires_grad:
            assert torch.equal(one.weight[one.mask()], other.weight[one.mask()])
    assert trained(again) == trained(network)
    save_subnet(again, path.with_suffix(".again"), network=name, force=True)
    (header, tensors), (header_again, tensors_again) = content(path), content(path.with_suffix(".again"))
    if not ls.masked_layers(network)[0][1].method.rerandomizes:  # what is not kept is drawn as at first, in fewer bytes
        assert header_again == header
        assert tensors_again.keys() == tensors.keys()
        assert all(torch.equal(tensors_again[key], tensors[key]) for key in tensors)
    return again


def trained(network: nn.Module) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


OTHERS = [
    Row(ls.Supermask, {"density": 0.3, "dynamic_scaling": True}),
    Row(ls.IteRand, {"density": 0.5, "every": 1, "share": 1.0, "allocation": "global"}),
    Row(ls.Biprop, {"density": 0.5, "allocation": "global", "absolute": False}),
]


@pytest.mark.parametrize(
    ("row", "weights"),
    [
        (row, weights)
        for row in [*EVERY, *OTHERS]
        for weights in WEIGHTS
        if weights != "signed_constant" or not row.kind.ranks_by_magnitude  # which cannot rank weights of one size
    ],
    ids=str,
)
def test_every_method_goes_on_from_its_file(row: Row, weights: str, tmp_path: Path) -> None:
    method = row()
    again = check_both(masked(method, weights=weights), tmp_path / "a.subnet")
    before = {name: parameter.clone() for name, parameter in again.named_parameters()}
    torch.manual_seed(0)
    assert torch.tensor(train_(again, 1)).isfinite()
    if method.trainable == "scores":
        for name, layer in ls.masked_layers(again):
            assert layer.scores is not None
            assert layer.scores.grad is not None
            assert layer.scores.grad.isfinite().all()
            assert layer.scores.grad.any(), name
            assert not torch.equal(layer.scores, before[f"{name}.scores"])
    else:
        assert any(not torch.equal(parameter, before[name]) for name, parameter in again.named_parameters())


@pytest.mark.parametrize(
    "row", [row for row in EVERY if row.kind in (ls.EdgePopup, ls.SNIP, ls.Dense, ls.Biprop)], ids=str
)
def test_norms_come_back_with_what_they_have_seen(row: Row, tmp_path: Path) -> None:
    network = masked_with_norms(row(), weights="kaiming_normal")
    again = check_both(network, tmp_path / "a.subnet", WITH_NORMS)
    assert again.get_buffer("bn1.running_mean").any()
    assert int(again.get_buffer("bn1.num_batches_tracked")) == 1
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(load_subnet(tmp_path / "a.subnet")(images), unmasked(network)(images))


@pytest.mark.parametrize("weights", [None, "kaiming_normal", "signed_constant"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_come_back(dtype: torch.dtype, weights: str | None, tmp_path: Path) -> None:
    for method in (ls.EdgePopup(density=0.3), ls.Biprop(density=0.5), ls.Random(density=0.5)):
        network = ls.mask_(with_norms().to(dtype), method, weights=weights, seed=2)
        check_both(network, tmp_path / "a.subnet", WITH_NORMS)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("method", [ls.EdgePopup(0.3), ls.Biprop(0.5), ls.DNW(0.3), ls.Random(0.3), ls.LinearProbe()])
def test_weights_that_came_with_the_network_come_back(method: ls.Method, binary: bool, tmp_path: Path) -> None:
    network = with_norms()
    with torch.no_grad():
        for parameter in network.parameters():
            nn.init.normal_(parameter)
            if binary and parameter.dim() > 1:
                parameter.copy_(parameter.sign() * 0.25)
    check_both(ls.mask_(network, method, weights=None), tmp_path / "a.subnet", WITH_NORMS)
    forms = {layer["weights"] for layer in content(tmp_path / "a.subnet")[0]["layers"].values()}
    assert forms == ({"signs"} if binary else {"values"})


@pytest.mark.parametrize(
    "weights", ["scaled_kaiming_normal", "kaiming_uniform", "xavier_normal", "scaled_xavier_signed_constant"]
)
def test_every_distribution_comes_back(weights: str, tmp_path: Path) -> None:
    check_both(masked(weights=weights), tmp_path / "a.subnet")


def test_given_masks_come_back(tmp_path: Path) -> None:
    masks = {name: layer.mask() for name, layer in ls.masked_layers(masked())}
    for shuffle in (False, True):
        check_both(masked(ls.FixedMask(masks, shuffle=shuffle)), tmp_path / "a.subnet")


def test_a_part_that_was_masked_by_itself_keeps_the_weights_of_its_old_names(tmp_path: Path) -> None:
    for method in (ls.EdgePopup(density=0.3), ls.Random(density=0.3), ls.IteRand(density=0.3, every=1)):
        inner = masked(method)
        again = check_both_in_sequence(inner, tmp_path / "a.subnet")
        for (_, one), (_, other) in zip(ls.masked_layers(inner), ls.masked_layers(again), strict=True):
            assert one.origin is not None
            assert other.origin is not None
            assert one.origin.seed == other.origin.seed


def check_both_in_sequence(inner: nn.Module, path: Path) -> nn.Module:
    save_subnet(nn.Sequential(inner), path, network="of_mine.wrapped", force=True)
    plain = load_subnet(path, network=nn.Sequential(small()))
    again = load_subnet(path, network=nn.Sequential(small()), masked=True)
    assert not differing(plain, nn.Sequential(unmasked(inner)))
    assert not differing(nn.Sequential(unmasked(inner)), unmasked(again))
    save_subnet(again, path.with_suffix(".again"), network="of_mine.wrapped", force=True)
    return again


def test_weights_that_are_not_kept_are_0_where_no_seed_gives_them(tmp_path: Path) -> None:
    network = ls.mask_(small(), ls.EdgePopup(density=0.3), weights=None)
    saved(tmp_path / "a.subnet", network)
    rubbish = [torch.full_like(layer.weight, torch.nan) for _, layer in ls.masked_layers(network) for _ in range(20)]
    del rubbish  # as what a network is built in
    for _, layer in ls.masked_layers(load_subnet(tmp_path / "a.subnet", masked=True)):
        assert not layer.weight[~layer.mask()].any()


def test_frozen_weights_that_are_not_kept_are_there_again(tmp_path: Path) -> None:
    network = masked(ls.EdgePopup(density=0.3))
    again = reloaded(network, tmp_path / "a.subnet", masked=True, network=NAMED)
    assert weights_digest(again) == weights_digest(network)
    assert content(tmp_path / "a.subnet")[0]["digests"]["weights"] == weights_digest(network)


class Own(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, width), nn.Linear(width, 2)

    def forward(self, rows: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.first(rows).relu())
        return outputs


def test_layers_may_have_any_names(tmp_path: Path) -> None:
    """By the names alone a comes before a-b, and by those of their parameters after it."""

    def network() -> nn.Module:
        return nn.Sequential(OrderedDict([("a", nn.Linear(4, 6)), ("a-b", nn.Linear(6, 6)), ("a b", nn.Linear(6, 3))]))

    found = ls.mask_(network(), ls.EdgePopup(0.5))
    path = saved(tmp_path / "a.subnet", found, network="of_mine.Own")
    again = load_subnet(path, network=network(), masked=True)
    assert not differing(unmasked(again), unmasked(found))


def test_a_network_of_ones_own_is_handed_in(tmp_path: Path) -> None:
    network = ls.mask_(Own(), ls.EdgePopup(density=0.5))
    path = tmp_path / "a.subnet"
    with pytest.raises(ls.UserError, match="name what does"):
        save_subnet(network, path)
    save_subnet(network, path, network="of_mine.Own")
    with pytest.raises(ls.UserError, match=r"'of_mine.Own' is no network of .* load_subnet\(path, network=...\)"):
        load_subnet(path)
    fresh = Own()
    assert load_subnet(path, network=fresh) is fresh
    assert not differing(fresh, unmasked(network))
    assert not differing(unmasked(load_subnet(path, network=Own(), masked=True)), fresh)
    for other, message in (
        (Own(width=5), r"the layer 'first' has shape \[4, 6\] there and \[5, 6\] here"),
        (nn.Sequential(Own()), "the layer '0.first' has shape none there"),
        (nn.Flatten(), "the layer 'first' has shape .* there and none here"),
        (ls.mask_(Own(), ls.Random(0.5)), "is masked: hand in a plain one"),
    ):
        with pytest.raises(ls.UserError, match=message):
            load_subnet(path, network=other)


class Every(ls.Method):
    """Of another package: keeps every third weight, and halves it."""

    trainable = "weights"
    density = 1 / 3

    def initial_scores(self, shape: torch.Size, *, seed: int, layer: str) -> None:
        return None

    def masks(self, layers: Sequence[ScoredLayer]) -> list[Tensor]:
        return [torch.arange(each.weight.numel()).remainder(3).eq(0).view_as(each.weight) for each in layers]

    def effective_weight(self, weight: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mul(weight / 2, mask, out=out)


def test_a_method_of_another_package_loads_plain_alone(tmp_path: Path) -> None:
    network = ls.mask_(small(), Every(), weights="kaiming_normal")
    path = saved(tmp_path / "a.subnet", network)
    assert not differing(load_subnet(path), unmasked(network))
    with pytest.raises(ls.UserError, match=r"of the method 'Every', not one of .*EdgePopup.*: load it without masked"):
        load_subnet(path, masked=True)
