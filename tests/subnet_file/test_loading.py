"""A network is restored from its file to the bit, plain or masked, whatever method found it."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from small_subnets import (
    WITH_NORMS,
    check_restored,
    content,
    differing,
    masked,
    masked_with_norms,
    saved,
    small,
    train_,
    unmasked,
    with_norms,
)
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.masking.digest import weights_digest
from lightning_subnets.masking.method import ScoredWeight
from lightning_subnets.subnet_file import load_subnet, save_subnet

sys.path.append(str(Path(__file__).parents[1] / "methods"))

from table import EVERY, Row

OTHERS = [
    Row(ls.Supermask, {"density": 0.3, "dynamic_scaling": True}),
    Row(ls.IteRand, {"density": 0.5, "every": 1, "share": 1.0, "allocation": "global"}),
    Row(ls.Biprop, {"density": 0.5, "allocation": "global", "absolute": False}),
]


@pytest.mark.parametrize("row", [*EVERY, *OTHERS], ids=str)
def test_every_method_is_restored_and_continues_training(row: Row, tmp_path: Path) -> None:
    for weights in ("kaiming_normal", "signed_constant"):
        if weights == "signed_constant" and row.kind.ranks_by_magnitude:  # all magnitudes are equal
            continue
        method = row()
        again = check_restored(masked(method, weights=weights), tmp_path / "a.subnet")
        before = {name: parameter.clone() for name, parameter in again.named_parameters()}
        torch.manual_seed(0)
        assert torch.tensor(train_(again, 1)).isfinite()
        changed = {name for name, parameter in again.named_parameters() if not torch.equal(parameter, before[name])}
        if method.trainable == "scores":
            for name, weight in ls.masked_weights(again).items():
                assert f"{name.removesuffix('.weight')}.scores" in changed
                assert weight.scores is not None
                assert weight.scores.grad is not None
                assert weight.scores.grad.isfinite().all()
        else:
            assert changed


@pytest.mark.parametrize("row", [*EVERY, *OTHERS], ids=str)
def test_new_tensors_may_be_on_another_device_by_default(row: Row, tmp_path: Path) -> None:
    network, again, plain, path = small(), small(), small(), tmp_path / "a.subnet"
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.where(parameter < 0, -0.1, 0.1))  # a file holds the signs of such weights
    method, batches = row(), [(torch.randn(20, 1, 8, 8), torch.arange(20) % 10)]
    weights = "kaiming_normal" if method.rerandomizes else None
    with torch.device("meta"):  # as torch.set_default_device("cuda") on a machine with a GPU
        ls.mask_(network, method, weights=weights, batches=batches)
        save_subnet(network, path, network="of_mine.small")
        load_subnet(path, network=again, masked=True)
        load_subnet(path, network=plain)
        found = ls.diagnose(network, (1, 8, 8))
    assert found == ls.diagnose(again, (1, 8, 8))
    assert all(torch.equal(mask, ls.masks(again)[name]) for name, mask in ls.masks(network).items())
    assert torch.equal(plain(batches[0][0]), unmasked(network)(batches[0][0]))


@pytest.mark.parametrize(
    "method", [ls.EdgePopup(0.3), ls.SNIP(0.3), ls.Dense(), ls.Biprop(0.3)], ids=lambda method: type(method).__name__
)
def test_norms_are_restored_with_their_statistics(method: ls.Method, tmp_path: Path) -> None:
    network = masked_with_norms(method, weights="kaiming_normal")
    again = check_restored(network, tmp_path / "a.subnet", WITH_NORMS)
    assert again.get_buffer("bn1.running_mean").any()
    assert int(again.get_buffer("bn1.num_batches_tracked")) == 1
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(load_subnet(tmp_path / "a.subnet")(images), unmasked(network)(images))


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, *(pytest.param(dtype, marks=pytest.mark.thorough) for dtype in (torch.float64, torch.half))],
)
def test_other_precisions_are_restored(dtype: torch.dtype, tmp_path: Path) -> None:
    for weights in (None, "kaiming_normal", "signed_constant"):
        scaled = ls.Supermask(density=0.3, dynamic_scaling=True)
        for method in (ls.EdgePopup(density=0.3), ls.Biprop(density=0.5), ls.Random(density=0.5), scaled):
            network = ls.mask_(with_norms().to(dtype), method, weights=weights, seed=2)
            check_restored(network, tmp_path / "a.subnet", WITH_NORMS)


@pytest.mark.parametrize("form", ["values", "signs"])
def test_weights_that_came_with_the_network_are_restored(form: str, tmp_path: Path) -> None:
    for method in (ls.EdgePopup(0.3), ls.Biprop(0.5), ls.DNW(0.3), ls.Random(0.3), ls.LinearProbe()):
        network = with_norms()
        with torch.no_grad():
            for parameter in network.parameters():
                nn.init.normal_(parameter)
                if form == "signs" and parameter.dim() > 1:
                    parameter.copy_(parameter.sign() * 0.25)
        check_restored(ls.mask_(network, method, weights=None), tmp_path / "a.subnet", WITH_NORMS)
        assert {layer["weights"] for layer in content(tmp_path / "a.subnet")[0]["layers"].values()} == {form}


def test_fixed_masks_are_restored(tmp_path: Path) -> None:
    for shuffle in (False, True):
        check_restored(masked(ls.FixedMask(ls.masks(masked()), shuffle=shuffle)), tmp_path / "a.subnet")


def test_a_part_that_was_masked_alone_keeps_the_weights_of_its_old_names(tmp_path: Path) -> None:
    path = tmp_path / "a.subnet"
    for method in (ls.EdgePopup(density=0.3), ls.Random(density=0.3), ls.IteRand(density=0.3, every=1)):
        inner = masked(method)
        save_subnet(nn.Sequential(inner), path, network="of_mine.wrapped", force=True)
        again = load_subnet(path, network=nn.Sequential(small()), masked=True)
        expected = nn.Sequential(unmasked(inner))
        assert not differing(load_subnet(path, network=nn.Sequential(small())), expected)
        assert not differing(unmasked(again), expected)
        save_subnet(again, path, network="of_mine.wrapped", force=True)
        assert not differing(load_subnet(path, network=nn.Sequential(small())), expected)


def test_dropped_weights_are_0_if_no_seed_gives_them(tmp_path: Path) -> None:
    network = ls.mask_(small(), ls.EdgePopup(density=0.3), weights=None)
    saved(tmp_path / "a.subnet", network)
    garbage = [
        torch.full_like(each.weight, torch.nan) for each in ls.masked_weights(network).values() for _ in range(20)
    ]
    del garbage  # the network is built in this memory
    for each in ls.masked_weights(load_subnet(tmp_path / "a.subnet", masked=True)).values():
        assert not each.weight[~each.mask()].any()


def test_dropped_weights_are_drawn_again(tmp_path: Path) -> None:
    network = masked(ls.EdgePopup(density=0.3))
    again = load_subnet(saved(tmp_path / "a.subnet", network), masked=True)
    assert weights_digest(again) == weights_digest(network)
    assert content(tmp_path / "a.subnet")[0]["digests"]["weights"] == weights_digest(network)


def test_layers_may_have_any_names(tmp_path: Path) -> None:
    """``a`` sorts before ``a-b``, but ``a.weight`` sorts after ``a-b.weight``."""

    def network() -> nn.Module:
        return nn.Sequential(OrderedDict([("a", nn.Linear(4, 6)), ("a-b", nn.Linear(6, 6)), ("a b", nn.Linear(6, 3))]))

    found = ls.mask_(network(), ls.EdgePopup(0.5))
    path = saved(tmp_path / "a.subnet", found, network="of_mine.Own")
    assert not differing(unmasked(load_subnet(path, network=network(), masked=True)), unmasked(found))


def own(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))


def test_a_network_of_another_package_is_given_by_the_user(tmp_path: Path) -> None:
    network, path = ls.mask_(own(), ls.EdgePopup(density=0.5)), tmp_path / "a.subnet"
    with pytest.raises(ls.UserError, match="builds this Sequential: name its builder"):
        save_subnet(network, path)
    save_subnet(network, path, network="of_mine.own")
    with pytest.raises(ls.UserError, match=r"'of_mine.own' is not a network of .* load_subnet\(path, network=...\)"):
        load_subnet(path)
    fresh = own()
    assert load_subnet(path, network=fresh) is fresh
    assert not differing(fresh, unmasked(network))
    for other, message in (
        (own(width=5), r"the weight '0.weight' has shape \[4, 6\] in the file and \[5, 6\] in the network"),
        (nn.Sequential(own()), "the weight '0.0.weight' has shape None in the file"),
        (nn.Linear(2, 2), "the weight 'weight' has shape None in the file"),
        (ls.mask_(own(), ls.Random(0.5)), "the given network is masked: give a plain one"),
    ):
        with pytest.raises(ls.UserError, match=message):
            load_subnet(path, network=other)


class EveryThird(ls.Method):
    """A method of another package that keeps every third weight, and halves it."""

    trainable = "weights"
    density = 1 / 3

    def initial_scores(self, shape: torch.Size, *, seed: int, stream: str) -> None:
        return None

    def masks(self, weights: Sequence[ScoredWeight]) -> list[Tensor]:
        return [torch.arange(each.weight.numel()).remainder(3).eq(0).view_as(each.weight) for each in weights]

    def effective_weight(self, weight: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mul(weight / 2, mask, out=out)


def test_a_method_of_another_package_loads_only_plain(tmp_path: Path) -> None:
    network = ls.mask_(small(), EveryThird(), weights="kaiming_normal")
    path = saved(tmp_path / "a.subnet", network)
    assert not differing(load_subnet(path), unmasked(network))
    with pytest.raises(ls.UserError, match=r"'EveryThird' is not one of .*EdgePopup.*: load .* without masked=True"):
        load_subnet(path, masked=True)
