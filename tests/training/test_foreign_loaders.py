"""Loaders whose length or order this package does not know: streams, weighted samplers and the like."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from small_runs import conv_module, quiet_trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset, WeightedRandomSampler

import lightning_subnets as ls
from lightning_subnets.training.callbacks import GradualDensity, IterativePruning
from lightning_subnets.training.callbacks.progress import Progress

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")

COUNT = 24
IMAGES = torch.arange(COUNT).float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
Labelled = tuple[Tensor, ...]


class Stream(IterableDataset[Labelled]):
    """Has no length, and a new order each time that it is read."""

    def __iter__(self) -> Iterator[Labelled]:
        for index in torch.randperm(COUNT).tolist():
            yield IMAGES[index], torch.tensor(index % 10)


def stream() -> DataLoader[Labelled]:
    return DataLoader(Stream(), batch_size=8)


def weighted() -> DataLoader[Labelled]:
    data = TensorDataset(IMAGES, torch.arange(COUNT) % 10)
    return DataLoader(data, batch_size=8, sampler=WeightedRandomSampler([1.0] * COUNT, COUNT))


class Watch(Callback):
    """Records the images and the learning rate of each step by epoch."""

    def __init__(self) -> None:
        self.images: dict[int, list[float]] = {}
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.images.setdefault(trainer.current_epoch, []).extend(batch[0][:, 0, 0, 0].tolist())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(loader: Any, *callbacks: Callback, evaluate: Any = None, module: Any = None, **options: Any) -> Watch:
    watch = Watch()
    trainer = quiet_trainer(callbacks=[watch, *callbacks], **({"max_epochs": 3} | options))
    trainer.fit(module or conv_module(), loader, evaluate)
    return watch


@pytest.mark.parametrize(
    ("callback", "options", "reason"),
    [
        (None, {}, r"the cosine schedule needs the number of steps.*no length: set --trainer\.max_steps"),
        (None, {"schedule": "constant", "warmup_epochs": 1.0}, "warmup_epochs counts epochs.*no length"),
        (GradualDensity(), {"schedule": "constant"}, "GradualDensity needs the number of steps"),
        (
            IterativePruning(rounds=2, epochs_per_round=1),
            {"schedule": "constant", "method": ls.Magnitude(1.0)},
            "IterativePruning counts epochs.*set --trainer.limit_train_batches",
        ),
    ],
)
def test_what_needs_the_length_of_a_stream_is_an_error(
    callback: Callback | None, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ls.UserError, match=reason):
        fit(stream(), *filter(None, [callback]), module=conv_module(**options))


@pytest.mark.parametrize("end", [{"max_steps": 9}, {"limit_train_batches": 3}])
def test_a_stream_whose_end_is_known_has_the_learning_rates_of_any_data(end: dict[str, int]) -> None:
    rates = fit(stream(), **end).rates
    assert len(rates) == 9
    assert rates == pytest.approx(fit(weighted()).rates)


def test_a_stream_can_be_trained_on_at_a_constant_rate(capsys: pytest.CaptureFixture[str]) -> None:
    module = conv_module(ls.GemMiner(0.9, every=4), schedule="constant")
    watch = fit(stream(), Progress(), module=module, enable_progress_bar=True)
    assert watch.rates == [0.1] * 9
    said = capsys.readouterr().err
    assert "step 9\n" in said
    assert "GemMiner" not in said


@pytest.mark.parametrize("make", [stream, weighted])
def test_each_epoch_has_an_order_of_its_own_whatever_runs_between(make: Any) -> None:
    alone, evaluated = fit(make(), max_steps=9).images, fit(make(), evaluate=weighted(), max_steps=9).images
    for epoch in (1, 2):  # the first order may be drawn before the run begins
        assert alone[epoch] == evaluated[epoch]
    assert len({tuple(images) for images in evaluated.values()}) == 3


def test_an_evaluation_leaves_the_generators_of_numpy_and_python_alone() -> None:
    drawn: list[float] = []

    class Noisy(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            drawn.extend([np.random.rand(), random.random()])
            return super().forward(input)

    module = ls.SubnetModule(torch.nn.Sequential(torch.nn.Flatten(), Noisy(64, 10)), ls.EdgePopup(0.5))
    drawn.clear()
    quiet_trainer().test(module, DataLoader(weighted().dataset, batch_size=8))
    assert len({*drawn}) == len(drawn) >= 6


@pytest.mark.parametrize("name", ["validate", "test", "predict"])
def test_an_evaluation_does_not_set_the_random_numbers_of_what_follows(name: str) -> None:
    drawn = []
    for _ in range(3):
        getattr(quiet_trainer(), name)(conv_module(), DataLoader(weighted().dataset, batch_size=8))
        drawn.append(torch.rand(1).item())
    assert len({*drawn}) == 3


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield from range(COUNT)


def test_a_sampler_without_a_length_or_an_end_can_be_trained_on() -> None:
    loader = DataLoader(TensorDataset(IMAGES, torch.arange(COUNT) % 10), 8, sampler=Endless())
    watch = fit(loader, module=conv_module(schedule="constant"), max_epochs=-1, max_steps=4, limit_val_batches=0)
    assert len(watch.rates) == 4
