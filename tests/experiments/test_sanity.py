"""The checks of ``subnets check``: what each changes, and that it changes nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.experiments import sanity


def network(seed: int) -> nn.Module:
    layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    return ls.mask_(layers, ls.EdgePopup(0.5), weights="kaiming_normal", seed=seed)


def test_each_check_changes_one_thing_and_estimates_norms_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found, images, seen = network(7), torch.randn(64, 4), list[dict[str, Tensor]]()

    def look(plain: nn.Module, _: object) -> float:
        seen.append({key: value.clone() for key, value in plain.state_dict().items()})
        return 0.0

    monkeypatch.setattr(sanity, "accuracy", look)
    batches = [(images, torch.arange(64) % 3)]
    names = [what for what, _ in sanity.checks(found, lambda: iter(batches), lambda: iter([]), range(2))]
    of_one_weight = [f"one weight, {value:+.1f}" for value in sanity.VALUES]
    assert names == ["as found", *["mask shuffled"] * 2, *["weights drawn again"] * 2, *of_one_weight]
    for name, layer in ls.masked_weights(found).items():
        raw, mask = layer.weight.detach(), layer.mask()
        assert torch.equal(seen[0][name], raw * mask)
        for each in seen[1:3]:
            moved = each[name] != 0
            assert moved.sum() == mask.sum()
            assert not torch.equal(moved, mask)
            assert torch.equal(each[name], raw * moved)
        for seed, each in enumerate(seen[3:5]):
            drawn = ls.raw_weight(network(8 + seed).get_submodule(name.removesuffix(".weight")))
            assert torch.equal(each[name], drawn * mask)
        for value, each in zip(sanity.VALUES, seen[5:], strict=True):
            torch.testing.assert_close(each[name], value * math.sqrt(2 / raw.shape[1]) * mask)
    for each in seen:
        hidden = nn.functional.linear(images, each["0.weight"], each["0.bias"])
        torch.testing.assert_close(each["1.running_mean"], hidden.mean(dim=0))
        torch.testing.assert_close(each["1.running_var"], hidden.var(dim=0))
