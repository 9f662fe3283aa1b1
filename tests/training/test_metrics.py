"""The metrics of a module: exact, for unusual labels, and without what an interrupted pass has counted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from small_runs import quiet_trainer
from test_module import fit, sgd, small_module, small_network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_subnets.datamodules import Digits
from lightning_subnets.errors import UserError
from lightning_subnets.training.callbacks import BestCheckpoint
from lightning_subnets.training.module import SubnetModule

LOADER = DataLoader(TensorDataset(torch.zeros(16, 1, 8, 8), torch.arange(16) % 10), 8)


def test_metrics_are_exact_over_unequal_batches(tmp_path: Path) -> None:
    module, data = small_module(label_smoothing=0.1), Digits(batch_size=100)
    trainer = fit(module, data, tmp_path)
    metrics = trainer.test(module, datamodule=data, verbose=False)[0]
    images, labels = data.test_set
    module.eval()
    with torch.no_grad():
        logits = module(data.normalize(images))
    order = logits.argsort(dim=1, descending=True)
    assert metrics["test/accuracy"] == pytest.approx((order[:, 0] == labels).float().mean().item())
    assert metrics["test/top5"] == pytest.approx((order[:, :5] == labels[:, None]).any(1).float().mean().item())
    smoothed = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert metrics["test/loss"] == pytest.approx(smoothed.item(), rel=1e-5)


def test_an_interrupted_evaluation_leaves_nothing_in_the_next_one() -> None:
    class Interrupt(Callback):
        def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    module, data = small_module(), Digits(batch_size=100)
    expected = quiet_trainer().validate(small_module(), datamodule=data, verbose=False)
    for run in ("fit", "validate"):
        with pytest.raises(SystemExit):
            getattr(quiet_trainer(callbacks=[Interrupt()], limit_train_batches=0), run)(module, datamodule=data)
        assert quiet_trainer().validate(module, datamodule=data, verbose=False) == expected


def test_an_interrupted_epoch_leaves_nothing_in_the_metrics_of_the_next_fit(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    module, data = small_module(optimizer=sgd(0.0)), Digits(batch_size=1437)
    with pytest.raises(SystemExit):
        fit(module, Digits(batch_size=100), tmp_path, callbacks=[Interrupt()])
    again, alone = fit(module, data, tmp_path), fit(small_module(optimizer=sgd(0.0)), data, tmp_path)
    loss = [trainer.callback_metrics["train/loss"].item() for trainer in (again, alone)]
    assert loss[0] == pytest.approx(loss[1])


def test_top5_is_1_with_fewer_than_five_classes() -> None:
    module = small_module(network=small_network(outputs=3))
    module._evaluate("val", (torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])), 0)
    top5: Any = module.metrics["val/top5"]
    assert top5.compute() == 1.0


def test_soft_labels_count_as_their_most_probable_class_in_accuracies_and_as_they_are_in_the_loss() -> None:
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    soft = 0.6 * nn.functional.one_hot(labels, 10) + 0.04
    found: list[dict[str, float]] = []
    for each in (labels, soft):
        loader = DataLoader(TensorDataset(images, each), 8)
        trainer = quiet_trainer(max_epochs=1)
        trainer.fit(small_module(label_smoothing=0.0 if each is soft else 0.4), loader, loader)
        found.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert {"train/accuracy", "val/accuracy", "val/top5"} <= found[0].keys()
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_early_stopping_takes_a_metric_of_ones_own_and_refuses_one_that_nobody_logs() -> None:
    class Logs(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: SubnetModule) -> None:  # type: ignore[override]
            pl_module.log("val_own", 0.5)

    def epochs(*callbacks: Callback, strict: bool = True) -> int:
        stopping = EarlyStopping("val_own", patience=2, strict=strict)
        trainer = quiet_trainer(callbacks=[*callbacks, stopping], max_epochs=9)
        trainer.fit(small_module(), datamodule=Digits(batch_size=1000))
        return trainer.current_epoch

    assert epochs(Logs()) == 3
    assert epochs(LambdaCallback(on_validation_epoch_end=lambda _, module: module.log("val_own", 0.5))) == 3
    assert epochs(strict=False) == 9
    with pytest.raises(UserError, match="EarlyStopping monitors val_own, which training does not log"):
        epochs()


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("callback", [EarlyStopping("val/loss"), ModelCheckpoint(monitor="val/loss")])
def test_nothing_can_monitor_a_validation_that_there_is_not(callback: Callback) -> None:
    message = r"monitors val/loss, .* set its monitor to train/loss or train/accuracy"
    with pytest.raises(UserError, match=message):
        quiet_trainer(limit_val_batches=0, callbacks=[callback]).fit(small_module(), datamodule=Digits())
    with pytest.raises(UserError, match=message):
        quiet_trainer(callbacks=[callback]).fit(small_module(), LOADER)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
@pytest.mark.parametrize(
    "kind", [BestCheckpoint, partial(ModelCheckpoint, monitor="val/accuracy", save_last=True)], ids=["best", "last too"]
)
def test_a_checkpoint_that_needs_no_metric_needs_no_validation(kind: Any, tmp_path: Path) -> None:
    trainer = quiet_trainer(callbacks=[kind(tmp_path)])
    trainer.fit(small_module(), LOADER)
    assert trainer.global_step == 2
