"""A run in float64, --trainer.precision=64-true, is one from its training to its export."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICKSTART
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from small_runs import quiet_trainer
from torch import Tensor

from lightning_subnets import SNIP, Dense, EdgePopup, Method, UserError, masked_weights, read_masks
from lightning_subnets.commands.cli import main
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.datamodules import Digits
from lightning_subnets.networks import Conv2
from lightning_subnets.run_files.saved_run import SavedRun
from lightning_subnets.subnet_file import load_subnet
from lightning_subnets.subnet_file.container import Container
from lightning_subnets.training.checkpoint import read
from lightning_subnets.training.module import SubnetModule

SMALL: dict[str, Any] = {"in_channels": 1, "image_size": 8, "width_multiplier": 0.25}


def module(method: Method) -> SubnetModule:
    return SubnetModule(
        Conv2(**SMALL),
        method,
        weights="kaiming_normal",
        optimizer=lambda trained: torch.optim.SGD(trained, lr=0.1, momentum=0.9),
    )


def trainer(*callbacks: Callback, precision: Any = "64-true", **options: Any) -> Trainer:
    limits = {"limit_train_batches": 4, "limit_val_batches": 1, "max_epochs": 2} | options
    return quiet_trainer(precision=precision, callbacks=callbacks, **limits)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(
    ("averaged", "method"),
    [
        (False, EdgePopup(0.3)),
        *(pytest.param(True, method, marks=pytest.mark.thorough) for method in (EdgePopup(0.3), SNIP(0.3), Dense())),
    ],
)
def test_a_run_in_float64_is_resumed_to_the_bit(averaged: bool, method: Method, tmp_path: Path) -> None:
    def run(folder: str, ckpt_path: Path | None = None) -> dict[str, Tensor]:
        of, average = module(method), [EMAWeightAveraging(decay=0.9)] if averaged else []
        keep = ModelCheckpoint(tmp_path / folder, filename="{epoch}", save_top_k=-1)
        trainer(*average, keep).fit(of, datamodule=Digits(batch_size=32), ckpt_path=ckpt_path)
        return copy.deepcopy(of.state_dict())

    whole = run("whole")
    resumed = run("resumed", tmp_path / "whole" / "epoch=0.ckpt")
    assert {value.dtype for value in whole.values()} <= {torch.float64, torch.bool}
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


@pytest.mark.thorough
def test_a_run_in_float64_is_reported_evaluated_and_exported_as_one(tmp_path: Path) -> None:
    options = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"]
    network = [f"--model.network.{key}={value}" for key, value in SMALL.items()]
    main(["fit", "-c", str(QUICKSTART), *options, *network, "--trainer.precision=64-true"])
    run, subnet = tmp_path / "quickstart" / "version_0", tmp_path / "run.subnet"
    summary, last = json.loads((run / "summary.json").read_text()), run / "checkpoints" / "last.ckpt"
    assert summary["weights_unchanged"]
    assert summary["log10_trace"] is not None
    found = SavedRun(str(last)).module()
    (measured,) = trainer().test(found, datamodule=Digits(batch_size=64), verbose=False)
    assert measured == {f"test/{name}": summary[f"test_{name}"] for name in ("loss", "accuracy", "top5")}
    subnets(["export", str(last), str(subnet)])
    assert Container(subnet).header.digests.weights == summary["weights_digest"]
    in_file = masked_weights(load_subnet(subnet, masked=True))
    given = read_masks(last, Conv2(**SMALL, norm="batch"))
    for name, layer in masked_weights(found.network).items():
        assert layer.weight.dtype == torch.float64
        assert torch.equal(layer.mask(), in_file[name].mask())
        assert torch.equal(layer.mask(), given[name])
    subnets(["check", str(last), "--images=64", "--batches=1", "--seeds=1"])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_scores_in_float64_are_not_rounded_to_fit_a_network_in_float32(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="run")
    trainer(keep, max_epochs=1).fit(module(EdgePopup(0.3)), datamodule=Digits(batch_size=32))
    assert read(tmp_path / "run.ckpt")["state_dict"]["network.features.0.scores"].dtype == torch.float64
    with pytest.raises(UserError, match=r"scores in torch.float64 and this run has it in torch.float32: take the --tr"):
        trainer(precision="32-true").test(
            module(EdgePopup(0.3)), datamodule=Digits(), ckpt_path=tmp_path / "run.ckpt", verbose=False
        )


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_a_precision_that_would_round_weights_is_an_error_before_training(precision: str) -> None:
    instead = precision.replace("true", "mixed")
    with pytest.raises(UserError, match=f"{precision} would round the weights and the scores, .* take {instead}, or "):
        trainer(precision=precision).fit(module(EdgePopup(0.3)), datamodule=Digits())


def test_a_fused_optimizer_cannot_clip_scaled_gradients() -> None:
    def fit(fused: bool) -> None:
        of = module(EdgePopup(0.3))
        of.optimizer = partial(torch.optim.SGD, lr=0.1, fused=fused)
        limits: dict[str, Any] = {"gradient_clip_val": 1.0, "max_steps": 1, "limit_val_batches": 0}
        quiet_trainer(plugins=[MixedPrecision("16-mixed", "cpu")], **limits).fit(of, datamodule=Digits())

    fit(fused=False)
    with pytest.raises(
        UserError, match=r"a fused SGD scales them back in its step, so set --model\.optimizer\.fused=false"
    ):
        fit(fused=True)


def test_in_mixed_precision_the_weights_are_those_of_the_seed() -> None:
    trained, untouched = module(EdgePopup(0.3)), module(EdgePopup(0.3))
    trainer(precision="bf16-mixed").fit(trained, datamodule=Digits(batch_size=32))
    for one, other in zip(
        masked_weights(trained.network).values(), masked_weights(untouched.network).values(), strict=True
    ):
        assert torch.equal(one.weight, other.weight)
        assert one.scores is not None
        assert one.scores.dtype == torch.float32
