"""What holds of every method."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from table import EVERY, EXACT, OF_A_DENSITY, Row, batches, masked, masked_conv, masked_norms, shuffle_net, step_
from torch import Tensor, nn

from lightning_subnets import (
    PHEW,
    FixedMask,
    Supermask,
    UserError,
    density,
    mask_,
    masked_layers,
    masks,
    read_masks,
    unmask_,
)
from lightning_subnets.datamodules import Digits
from lightning_subnets.graph.diagnostics import log10_path_kernel_trace
from lightning_subnets.masking import allocation
from lightning_subnets.masking.digest import weights_digest
from lightning_subnets.networks import Conv2
from lightning_subnets.training.module import SubnetModule

every_method = pytest.mark.parametrize("row", EVERY, ids=str)


def kept_by_layer(network: nn.Module) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks(network).items()}


@pytest.mark.parametrize("row", EXACT, ids=str)
def test_exactly_what_the_density_says_is_kept_before_and_after_a_step(row: Row) -> None:
    method = row()
    network = masked(method)
    totals = {name: layer.weight.numel() for name, layer in masked_layers(network)}
    for _ in range(2):
        kept = kept_by_layer(network)
        if row.by_layer:
            assert kept == {name: allocation.num_kept(total, method.density) for name, total in totals.items()}
        else:
            assert sum(kept.values()) == allocation.num_kept(sum(totals.values()), method.density)
        assert density(network) == sum(kept.values()) / sum(totals.values())
        assert density(network, per_layer=True) == {name: kept[name] / totals[name] for name in totals}
        step_(network)


@pytest.mark.parametrize("d", [0.9, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("row", [*OF_A_DENSITY, EVERY[-1]], ids=str)
def test_a_network_of_any_density_has_finite_logits_and_takes_a_step(row: Row, d: float) -> None:
    if row.kind is PHEW and d == 0.9:
        with pytest.raises(UserError, match=r"cannot keep that many .*Take a density up to 0\."):
            masked_conv(row(density=d))
        return
    network = masked_conv(row(density=d))
    total = sum(layer.weight.numel() for _, layer in masked_layers(network))
    kept = kept_by_layer(network)
    if row.kind is Supermask:
        assert kept == {name: round(d * layer.weight.numel()) for name, layer in masked_layers(network)}
    elif row.by_layer:
        assert kept == {name: allocation.num_kept(layer.weight.numel(), d) for name, layer in masked_layers(network)}
    else:
        assert sum(kept.values()) == allocation.num_kept(total, d)
    step_(network, size=32)
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())
    assert network.eval()(torch.randn(2, 3, 32, 32)).isfinite().all()


@every_method
def test_what_is_frozen_is_bitwise_unchanged_after_a_step_and_the_rest_is_not(row: Row) -> None:
    method = row()
    network = masked(method)
    last = masked_layers(network)[-1][0]
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    digest = weights_digest(network)
    step_(network)
    for name, parameter in network.named_parameters():
        scores = name.endswith("scores")
        trained = {
            "scores": scores,
            "weights": not scores,
            "last layer": name.startswith(last),
        }[method.trainable]
        assert parameter.requires_grad == trained, name
        assert torch.equal(parameter, before[name]) == (not trained), name
    assert (weights_digest(network) == digest) == (method.trainable == "scores")


@every_method
def test_the_seed_alone_determines_the_network_its_mask_and_its_first_loss(row: Row) -> None:
    found = []
    for built_after, seed in enumerate((1, 1, 2)):
        torch.manual_seed(built_after)
        network = masked(row(), seed=seed)
        state = {name: layer.mask() for name, layer in masked_layers(network)} | copy.deepcopy(network.state_dict())
        torch.manual_seed(0)  # of masks that are drawn in each forward pass
        (images, labels), *_ = batches()
        found.append(state | {"loss": nn.functional.cross_entropy(network(images), labels).detach()})
    first, same, other = found
    assert [key for key in first if not torch.equal(first[key], same[key])] == []
    drawn = [key for key in first if first[key].dim() == 4 and not key.endswith("scores") and key.endswith("weight")]
    drawn += ["fc.bias"] if row().trainable == "weights" else []
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


@every_method
def test_a_module_in_training_starts_from_the_seed_alone(row: Row, tmp_path: Path) -> None:
    states = []
    for built_after in range(2):
        torch.manual_seed(built_after)
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        module = SubnetModule(network, row(), weights="kaiming_normal", seed=3)
        states.append(fit(module, tmp_path / str(built_after), epochs=1))
    first, second = states
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@every_method
def test_two_runs_from_one_seed_are_the_same_to_the_bit(row: Row) -> None:
    states = []
    for _ in range(2):
        network = masked(row(), seed=1)
        torch.manual_seed(1)  # of the images
        for _ in range(2):
            step_(network)
        states.append(copy.deepcopy(network.state_dict()))
    first, second = states
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("row", EXACT, ids=str)
def test_an_unmasked_network_has_equal_logits_in_plain_torchvision(row: Row) -> None:
    network = masked(row())
    step_(network)
    images = torch.randn(2, 3, 64, 64)
    logits = network.eval()(images)
    stock = shuffle_net()
    stock.load_state_dict(unmask_(network).state_dict(), strict=True)
    assert torch.equal(stock.eval()(images), logits)
    assert logits.std() > 0


@pytest.mark.parametrize("row", [*EVERY, Row(Supermask, {"density": 0.3, "dynamic_scaling": True})], ids=str)
def test_the_path_kernel_is_that_of_the_weights_a_layer_computes_with(row: Row) -> None:
    network = masked_norms(row())
    step_(network, size=16)  # norms have seen something, and the mean magnitude of what is kept is another
    kept = {name: layer.mask() for name, layer in masked_layers(network)}
    state = copy.deepcopy(network.state_dict())
    trace = log10_path_kernel_trace(network, kept, (3, 16, 16))
    assert math.isfinite(trace)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert [name for name, _ in masked_layers(network)] == list(kept)
    folded = unmask_(copy.deepcopy(network))
    assert trace == pytest.approx(log10_path_kernel_trace(folded, kept, (3, 16, 16)), rel=1e-12)


def fit(module: SubnetModule, folder: Path, *, epochs: int, resume: Path | None = None) -> dict[str, Tensor]:
    checkpoints = ModelCheckpoint(folder, filename="last")
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[checkpoints],
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_train_batches=3,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=Digits(), ckpt_path=resume)
    return copy.deepcopy(module.network.state_dict())


def small_module(row: Row) -> SubnetModule:
    torch.manual_seed(0)
    return SubnetModule(
        Conv2(in_channels=1, image_size=8, width_multiplier=0.25),
        row(),
        weights="kaiming_normal",
        schedule="constant",
        optimizer=lambda trained: torch.optim.SGD(trained, lr=0.1, momentum=0.9),
    )


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # in a folder of its own
@every_method
def test_a_run_that_goes_on_is_the_one_that_was_not_stopped(row: Row, tmp_path: Path) -> None:
    whole = fit(small_module(row), tmp_path / "whole", epochs=2)
    fit(small_module(row), tmp_path / "stopped", epochs=1)
    gone_on = fit(small_module(row), tmp_path / "gone_on", epochs=2, resume=tmp_path / "stopped" / "last.ckpt")
    assert all(torch.equal(value, gone_on[key]) for key, value in whole.items())


@every_method
def test_the_mask_of_a_run_can_be_given_to_another(row: Row, tmp_path: Path) -> None:
    module = small_module(row)
    fit(module, tmp_path, epochs=1)
    found = masks(module.network)
    torch.manual_seed(0)
    other = Conv2(in_channels=1, image_size=8, width_multiplier=0.25)
    read = read_masks(str(tmp_path / "last.ckpt"), other)
    mask_(other, FixedMask(read), weights="kaiming_normal", seed=5)
    assert all(torch.equal(layer.mask(), found[name]) for name, layer in masked_layers(other))
    mask_(unmask_(other), FixedMask(read, shuffle=True))
    for name, layer in masked_layers(other):
        assert layer.mask().sum() == found[name].sum()
        assert torch.equal(layer.mask(), found[name]) == bool(found[name].all())
