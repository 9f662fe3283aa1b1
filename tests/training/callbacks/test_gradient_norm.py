from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from metric_rows import column
from small_runs import quiet_trainer
from torch import nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import GradientNorm
from lightning_subnets.training.loggers import MetricsFile
from lightning_subnets.training.module import SubnetModule


class _Expected(Callback):
    """The norm as the optimizer would see it without clipping, by hand."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat(gradients).norm()))


def fit(
    folder: Path, *, method: ls.Method, fused: bool = False, **options: Any
) -> tuple[dict[int, float], list[float]]:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    module = SubnetModule(
        network, method, weights="signed_constant", optimizer=lambda p: torch.optim.SGD(p, 0.1, fused=fused)
    )
    expected = _Expected()
    settings = {"log_every_n_steps": 3, "logger": MetricsFile(str(folder))} | options
    trainer = quiet_trainer(callbacks=[expected, GradientNorm()], **settings)
    trainer.fit(module, datamodule=Digits())
    return column(folder, "train/gradient_norm"), expected.norms


@pytest.mark.parametrize("method", [ls.EdgePopup(0.5), ls.Dense()], ids=["scores", "weights"])
def test_the_norm_is_over_all_trained_parameters(method: ls.Method, tmp_path: Path) -> None:
    logged, expected = fit(tmp_path, method=method)
    assert list(logged) == list(range(2, len(expected), 3))
    assert all(norm == pytest.approx(expected[step]) for step, norm in logged.items())


def test_the_norm_is_that_of_the_accumulated_gradient_before_clipping(tmp_path: Path) -> None:
    logged, expected = fit(tmp_path, method=ls.EdgePopup(0.5), accumulate_grad_batches=3, gradient_clip_val=1e-3)
    assert min(logged.values()) > 1e-3
    assert all(norm == pytest.approx(expected[step]) for step, norm in logged.items())


@pytest.mark.parametrize("fused", [False, True])
def test_the_norm_of_scaled_gradients_is_that_of_the_unscaled_ones(fused: bool, tmp_path: Path) -> None:
    plain, _ = fit(tmp_path / "plain", method=ls.EdgePopup(0.5), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    scaled, _ = fit(tmp_path / "scaled", method=ls.EdgePopup(0.5), fused=fused, plugins=[plugin])
    assert scaled == {step: pytest.approx(norm, rel=0.05) for step, norm in plain.items()}


def test_nothing_is_logged_without_a_logging_interval(tmp_path: Path) -> None:
    assert not fit(tmp_path, method=ls.EdgePopup(0.5), log_every_n_steps=0)[0]
