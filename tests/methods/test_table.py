"""Properties of every method. ``make test`` runs a sample of the rows, ``make test-all`` runs all."""

from __future__ import annotations

import copy
import inspect
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from table import (
    EVERY,
    EXACT,
    OF_A_DENSITY,
    SCORES_TRAINED,
    Row,
    batches,
    masked,
    masked_conv,
    masked_norms,
    quiet_trainer,
    shuffle_net,
    step_,
)
from torch import Tensor, nn

from lightning_subnets import (
    PHEW,
    EdgePopup,
    FixedMask,
    Supermask,
    UserError,
    density,
    mask_,
    masked_weights,
    masks,
    read_masks,
    unmask_,
)
from lightning_subnets.datamodules import Digits
from lightning_subnets.graph.diagnostics import log10_path_kernel_trace
from lightning_subnets.masking import allocation
from lightning_subnets.masking.digest import weights_digest
from lightning_subnets.masking.masked_weight import multipliers
from lightning_subnets.masking.method import is_plain
from lightning_subnets.networks import Conv4
from lightning_subnets.training.module import SubnetModule

# One method that trains scores, one that prunes at initialisation, one that redraws weights, one that draws masks.
# And one whose masks are integers.
SAMPLE = (
    "EdgePopup density=0.3",
    "SNIP density=0.3",
    "IteRand density=0.3 every=1",
    "Multicoated density=0.3 signed=True frozen=0.7",
    "Supermask density=0.3",
)


def each_of(rows: list[Row]) -> pytest.MarkDecorator:
    marks = {row: [] if str(row) in SAMPLE else [pytest.mark.thorough] for row in map(str, rows)}
    return pytest.mark.parametrize("row", [pytest.param(row, id=str(row), marks=marks[str(row)]) for row in rows])


every_method = each_of(EVERY)


def kept_by_layer(network: nn.Module) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks(network).items()}


def test_numbers_of_numpy_make_the_same_method_as_numbers_of_python() -> None:
    for row in EVERY:
        method = row()
        numbers = {name: value for name, value in vars(method).items() if isinstance(value, int | float)}
        taken = numbers.keys() & inspect.signature(row.kind).parameters.keys()
        of_numpy = row(**{name: np.asarray(numbers[name])[()] for name in taken})
        assert repr(vars(of_numpy)) == repr(vars(method))  # np.float64(0.3) == 0.3, but its repr names NumPy


def test_a_number_in_a_tensor_is_a_number_of_a_method() -> None:
    for number in (torch.tensor(0.5), np.float64(0.5)):
        assert repr(EdgePopup(number)) == repr(EdgePopup(0.5))  # type: ignore[arg-type]


def test_a_run_with_densities_of_numpy_has_plain_values_to_keep() -> None:
    module = SubnetModule(Conv4(width_multiplier=0.25), EdgePopup(np.float64(0.5)), densities={"*": np.float64(0.25)})
    assert is_plain(module.identity)
    assert density(module.network) == pytest.approx(0.25, abs=0.01)


def test_a_layer_of_which_nothing_is_kept_is_0() -> None:
    for row in (*EVERY, Row(Supermask, {"density": 0.3, "dynamic_scaling": True})):
        assert not row().effective_weight(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)).any(), row


@torch.no_grad()
def test_first_scores_are_moved_so_that_they_give_any_mask() -> None:
    for row in (each for each in EVERY if each.kind.trainable == "scores"):
        network = mask_(nn.Sequential(nn.Linear(1, 2), nn.Linear(30, 20)), row(), weights="kaiming_normal")
        scores = {name: each.scores for name, each in masked_weights(network).items() if each.scores is not None}
        first = {name: each.clone() for name, each in scores.items()}
        first["1.weight"][0, :2] = torch.tensor([float(first["1.weight"].abs().max()), 0.0])
        for _ in range(20):
            for name, each in scores.items():
                each.copy_(torch.randn_like(each) * first[name].abs().max())
            expected = multipliers(network)
            for name, each in scores.items():
                each.copy_(masked_weights(network)[name].method.scores_for_mask(expected[name], first[name]))
            assert all(torch.equal(found, expected[name]) for name, found in multipliers(network).items()), row


@each_of(EXACT)
def test_the_number_of_weights_kept_is_exact_before_and_after_a_step(row: Row) -> None:
    method = row()
    network = masked(method)
    totals = {name: layer.weight.numel() for name, layer in masked_weights(network).items()}
    for _ in range(2):
        kept = kept_by_layer(network)
        if row.by_layer:
            assert kept == {name: allocation.num_kept(total, method.density) for name, total in totals.items()}
        else:
            assert sum(kept.values()) == allocation.num_kept(sum(totals.values()), method.density)
        assert density(network) == sum(kept.values()) / sum(totals.values())
        assert density(network, per_weight=True) == {name: kept[name] / totals[name] for name in totals}
        step_(network)


@pytest.mark.parametrize("d", [0.9, 0.01, 0.001])
@each_of([*OF_A_DENSITY, EVERY[-1]])
def test_a_network_of_any_density_has_finite_logits_and_takes_a_step(row: Row, d: float) -> None:
    if row.arguments.get("allocation") == "smart_ratio":
        d = max(d, 0.01)  # a lower density than that of the last layer is an error, see test_allocation
    if row.kind is PHEW and d == 0.9:
        with pytest.raises(UserError, match=r"cannot keep that many .*Take a density up to 0\."):
            masked_conv(row(density=d))
        return
    network = masked_conv(row(density=d))
    total = sum(layer.weight.numel() for layer in masked_weights(network).values())
    kept = kept_by_layer(network)
    if row.kind is Supermask:
        assert kept == {name: round(d * layer.weight.numel()) for name, layer in masked_weights(network).items()}
    elif row.by_layer:
        assert kept == {
            name: allocation.num_kept(layer.weight.numel(), d) for name, layer in masked_weights(network).items()
        }
    else:
        assert sum(kept.values()) == allocation.num_kept(total, d)
    step_(network, size=32)
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())
    assert network.eval()(torch.randn(2, 3, 32, 32)).isfinite().all()


@every_method
def test_a_step_changes_trained_parameters_and_no_bit_of_frozen_ones(row: Row) -> None:
    method = row()
    network = masked(method)
    last = list(masked_weights(network))[-1].removesuffix(".weight")
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    digest = weights_digest(network)
    step_(network)
    for name, parameter in network.named_parameters():
        scores = name.endswith("scores")
        trained = {"scores": scores, "weights": not scores, "last layer": name.startswith(f"{last}.")}[method.trainable]
        assert parameter.requires_grad == trained, name
        assert torch.equal(parameter, before[name]) == (not trained), name
    assert (weights_digest(network) == digest) == (method.trainable == "scores")


@every_method
def test_the_seed_alone_determines_the_network_its_mask_and_its_first_loss(row: Row) -> None:
    found = []
    for built_after, seed in enumerate((1, 1, 2)):
        torch.manual_seed(built_after)
        network = masked(row(), seed=seed)
        state = masks(network) | copy.deepcopy(network.state_dict())
        torch.manual_seed(0)  # for masks that each forward pass draws
        (images, labels), *_ = batches()
        found.append(state | {"loss": nn.functional.cross_entropy(network(images), labels).detach()})
    first, same, other = found
    assert [key for key in first if not torch.equal(first[key], same[key])] == []
    drawn = [key for key in first if first[key].dim() == 4 and not key.endswith("scores") and key.endswith("weight")]
    drawn += ["fc.bias"] if row().trainable == "weights" else []
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


@each_of(EXACT)
def test_an_unmasked_network_gives_equal_logits_in_plain_torchvision(row: Row) -> None:
    network = masked(row())
    step_(network)
    images = torch.randn(2, 3, 64, 64)
    logits = network.eval()(images)
    stock = shuffle_net()
    stock.load_state_dict(unmask_(network).state_dict(), strict=True)
    assert torch.equal(stock.eval()(images), logits)
    assert logits.std() > 0


@each_of([*EVERY, Row(Supermask, {"density": 0.3, "dynamic_scaling": True})])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_layer_computes_in_the_type_of_its_weight(row: Row, dtype: torch.dtype) -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).to(dtype)
    images = torch.randn(8, 1, 2, 4, dtype=dtype)
    mask_(layers, row(), weights="kaiming_normal", batches=[(images, torch.arange(8) % 4)])
    found = [each.method.effective_weight(each.weight, each.multiplier()) for each in masked_weights(layers).values()]
    found += [each.weight for each in layers if isinstance(each, nn.Linear)]
    assert [each.dtype for each in found] == 4 * [dtype]
    assert all(each.isfinite().all() for each in found)


@each_of([*EVERY, Row(Supermask, {"density": 0.3, "dynamic_scaling": True})])
def test_the_path_kernel_uses_the_weights_that_a_layer_computes_with(row: Row) -> None:
    network = masked_norms(row())
    step_(network, size=16)  # changes the statistics of norms and the mean magnitude of kept weights
    kept = masks(network)
    state = copy.deepcopy(network.state_dict())
    trace = log10_path_kernel_trace(network, kept, (3, 16, 16))
    assert math.isfinite(trace)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert list(masked_weights(network)) == list(kept)
    folded = unmask_(copy.deepcopy(network))
    assert trace == pytest.approx(log10_path_kernel_trace(folded, kept, (3, 16, 16)), rel=1e-12)


def fit(module: SubnetModule, folder: Path, *, epochs: int, resume: Path | None = None) -> dict[str, Tensor]:
    checkpoints = ModelCheckpoint(folder, filename="last")
    options = {"max_epochs": epochs, "limit_train_batches": 3, "enable_checkpointing": True}
    quiet_trainer(**options, callbacks=[checkpoints]).fit(module, datamodule=Digits(), ckpt_path=resume)
    return copy.deepcopy(module.network.state_dict())


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def small_module(row: Row, built_after: int) -> SubnetModule:
    torch.manual_seed(built_after)
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return SubnetModule(plain(), row(), weights="kaiming_normal", schedule="constant", optimizer=optimizer)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@every_method
def test_a_resumed_run_equals_an_uninterrupted_one_whatever_the_global_generator(row: Row, tmp_path: Path) -> None:
    whole = fit(small_module(row, 0), tmp_path / "whole", epochs=2)
    fit(small_module(row, 1), tmp_path / "stopped", epochs=1)
    resumed = fit(small_module(row, 2), tmp_path / "resumed", epochs=2, resume=tmp_path / "stopped" / "last.ckpt")
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


@every_method
def test_the_masks_of_a_run_can_be_fixed_in_another(row: Row, tmp_path: Path) -> None:
    module, other = small_module(row, 0), plain()
    fit(module, tmp_path, epochs=1)
    found = masks(module.network)
    read = read_masks(str(tmp_path / "last.ckpt"), other)
    mask_(other, FixedMask(read), weights="kaiming_normal", seed=5)
    assert all(torch.equal(mask, found[name]) for name, mask in masks(other).items())
    mask_(unmask_(other), FixedMask(read, shuffle=True))
    for name, mask in masks(other).items():
        assert mask.sum() == found[name].sum()
        assert torch.equal(mask, found[name]) == bool(found[name].all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("row", SCORES_TRAINED, ids=str)
def test_the_masks_on_a_gpu_are_those_of_a_cpu(row: Row) -> None:
    network = mask_(plain(), row())
    moved = copy.deepcopy(network).cuda()
    expected = masks(network)
    for name, mask in masks(moved).items():
        assert mask.device.type == "cuda"
        assert torch.equal(mask.cpu(), expected[name]), name


@pytest.mark.parametrize("row", [each for each in EVERY if each.kind.trainable == "scores"], ids=str)
def test_scores_of_nan_are_an_error_whatever_the_method(row: Row) -> None:
    layer = mask_(nn.Linear(30, 20), row(), weights="kaiming_normal")
    with torch.no_grad():
        layer.get_parameter("scores").fill_(math.nan)
    for use in (density, lambda net: net(torch.ones(1, 30))):
        with pytest.raises(UserError, match="a score is NaN"):
            use(layer)
