from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from small_runs import conv_module, quiet_trainer
from test_last_checkpoint import Do, at_step, send

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.subnet_file import masks_in
from lightning_subnets.training.callbacks import GradualDensity, LastCheckpoint
from lightning_subnets.training.callbacks.last_checkpoint import Stopped

BATCHES = 8
TOTALS = {"0.weight": 36, "5.weight": 1440}


class _Counts(Callback):
    """Records the weights that are kept when a gradient is computed, and when validation begins."""

    def __init__(self) -> None:
        self.trained: list[dict[str, int]] = []
        self.evaluated: list[dict[str, int]] = []

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained.append(_kept(pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluated.append(_kept(pl_module))


def _kept(module: Any) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in ls.masks(module.network).items()}


def _fit(callback: GradualDensity, method: ls.Method | None = None, **options: Any) -> _Counts:
    counts = _Counts()
    trainer = quiet_trainer(callbacks=[callback, counts], limit_train_batches=BATCHES, **options)
    trainer.fit(conv_module(method or ls.EdgePopup(0.25), allow_collapse=True), datamodule=Digits())
    return counts


def test_the_density_falls_by_the_cube_to_the_methods_own() -> None:
    counts = _fit(GradualDensity(start=1.0, until=0.5), max_epochs=1)
    for name, total in TOTALS.items():
        kept = total // 4
        shares = [(1 - step / (BATCHES / 2)) ** 3 if step < BATCHES / 2 else 0.0 for step in range(BATCHES)]
        assert [each[name] for each in counts.trained] == [kept + round((total - kept) * share) for share in shares]


def test_every_evaluation_is_at_the_methods_density() -> None:
    counts = _fit(GradualDensity(until=1.0), max_epochs=2, val_check_interval=3)
    assert len(counts.evaluated) > 4
    assert all(each == {name: total // 4 for name, total in TOTALS.items()} for each in counts.evaluated)


class Interrupt(Callback):
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 2:
            raise KeyboardInterrupt


def test_after_an_interruption_the_network_has_the_methods_density() -> None:
    module, gradual = conv_module(ls.EdgePopup(0.25), allow_collapse=True), GradualDensity(until=1.0)
    with pytest.raises(SystemExit):
        quiet_trainer(callbacks=[gradual, Interrupt()]).fit(module, datamodule=Digits())
    for schedule in ("cosine", "constant", "cosine"):  # the cosine schedule fails before training starts
        other = conv_module(ls.EdgePopup(0.5), schedule=schedule)
        with pytest.raises(ls.UserError, match=r"needs an end: set --trainer\.max_epochs"):
            quiet_trainer(callbacks=[gradual], max_epochs=-1).fit(other, datamodule=Digits())
        assert _kept(other) == {name: total // 2 for name, total in TOTALS.items()}
        # The same after a fit that ends.
        quiet_trainer(callbacks=[gradual], max_steps=1).fit(conv_module(ls.EdgePopup(0.25)), datamodule=Digits())
    assert _kept(module) == {name: total // 4 for name, total in TOTALS.items()}
    assert int((module.network[0].weight != 0).sum()) == 9  # type: ignore[index]


def test_weights_that_keep_more_than_the_start_keep_that() -> None:
    counts = _fit(GradualDensity(start=0.3, until=1.0), ls.EdgePopup(0.5))
    assert all(each == {name: total // 2 for name, total in TOTALS.items()} for each in counts.trained)


@pytest.mark.parametrize("method", [ls.PartiallyFrozen(0.25, frozen=0.6), ls.Multicoated(0.25, frozen=0.6)])
def test_frozen_edges_that_are_never_kept_stay_so(method: ls.Method) -> None:
    counts = _fit(GradualDensity(until=1.0), method, max_epochs=1)
    for name, total in TOTALS.items():
        assert counts.trained[0][name] == total - int(0.6 * 0.75 * total)
        assert counts.evaluated[-1][name] == total // 4


@pytest.mark.parametrize("method", [ls.EdgePopup, ls.Biprop, ls.IteRand])
def test_weights_that_are_ranked_together_have_the_number_of_all_at_every_step(method: Any) -> None:
    method = method(0.25, allocation="global")
    module = conv_module(method, allow_collapse=True)
    counts, total = _Counts(), sum(TOTALS.values())
    callbacks = [GradualDensity(until=0.5), counts]
    trainer = quiet_trainer(callbacks=callbacks, limit_train_batches=BATCHES, max_epochs=1, val_check_interval=3)
    trainer.fit(module, datamodule=Digits())
    kept = total - int(0.75 * total)
    shares = [(1 - step / (BATCHES / 2)) ** 3 if step < BATCHES / 2 else 0.0 for step in range(BATCHES)]
    assert [sum(each.values()) for each in counts.trained] == [kept + round((total - kept) * each) for each in shares]
    assert len(counts.evaluated) > 2
    assert all(sum(each.values()) == kept for each in counts.evaluated)
    assert {each.num_kept for each in ls.masked_weights(module.network).values()} == {None}
    assert sum(_kept(module).values()) == kept


class SaveInAStep(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network: Any = pl_module.network
        assert "density by scores" in repr(network)  # not the number of all, in a part
        ls.save_subnet(network, self.path, network="mine.Network", force=True)
        assert {name: int(mask.sum()) for name, mask in masks_in(self.path).items()} == _kept(pl_module)


def test_a_file_that_is_saved_within_a_step_has_the_masks_of_the_step(tmp_path: Path) -> None:
    callbacks = [GradualDensity(until=1.0), SaveInAStep(tmp_path / "a.subnet")]
    module = conv_module(ls.EdgePopup(0.25, allocation="global"), allow_collapse=True)
    quiet_trainer(callbacks=callbacks, max_steps=1).fit(module, datamodule=Digits())
    assert sum(int(mask.sum()) for mask in masks_in(tmp_path / "a.subnet").values()) == sum(TOTALS.values())


@pytest.mark.parametrize("method", [ls.Supermask(0.5), ls.SynFlow(0.5), ls.DNW(0.5)])
def test_methods_without_fixed_numbers_or_without_scores_are_an_error(method: ls.Method) -> None:
    with pytest.raises(ValueError, match=f"{type(method).__name__} does not: take EdgePopup"):
        _fit(GradualDensity(), method)


@pytest.mark.parametrize("options", [{"start": 0.0}, {"start": 1.5}, {"until": 0.0}, {"until": 2.0}])
def test_shares_outside_their_range_are_an_error(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"is outside \(0, 1\]"):
        GradualDensity(**options)


def _run(
    folder: Path,
    until: float = 1.0,
    stop: int = -1,
    batch_size: int = 288,
    counts: _Counts | None = None,
    method: ls.Method | None = None,
) -> dict[str, Any]:
    """Train two epochs of five steps, from the checkpoint that is there, and return the last checkpoint."""
    last = LastCheckpoint(folder)
    callbacks = [Do(at_step(stop, send(signal.SIGUSR1))), GradualDensity(until=until), counts or _Counts(), last]
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=2)
    trainer.fit(conv_module(method), datamodule=Digits(batch_size=batch_size), ckpt_path=last.best_model_path or None)
    content: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    return content


@pytest.mark.parametrize("method", [ls.EdgePopup(0.5), ls.EdgePopup(0.25, allocation="global")], ids=str)
def test_a_stopped_run_resumes_to_the_bit(method: ls.Method, tmp_path: Path) -> None:
    for stop in (3, 5, 8):
        with pytest.raises(Stopped):
            _run(tmp_path / "stopped", stop=stop, method=method)
    resumed, whole = _run(tmp_path / "stopped", method=method), _run(tmp_path / "whole", method=method)
    assert resumed["state_dict"].keys() == whole["state_dict"].keys()
    assert all(torch.equal(tensor, whole["state_dict"][name]) for name, tensor in resumed["state_dict"].items())


@pytest.mark.parametrize(("batch_size", "steps"), [(144, 20), (576, 6)])
def test_a_run_that_resumes_with_another_batch_size_goes_on_at_the_same_share_of_its_steps(
    batch_size: int, steps: int, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        _run(tmp_path, stop=5)
    counts = _Counts()
    _run(tmp_path, batch_size=batch_size, counts=counts)
    half = TOTALS["5.weight"] // 2
    shares = [(1 - step / steps) ** 3 for step in range(steps // 2, steps)]
    assert [each["5.weight"] for each in counts.trained] == [half + round(half * share) for share in shares]


def test_a_checkpoint_of_another_schedule_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        _run(tmp_path, stop=3)
    with pytest.raises(ValueError, match=r"'until': 1\.0\} of GradualDensity.*keep the values"):
        _run(tmp_path, until=0.5)
