from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from small_runs import quiet_trainer
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch._inductor.exc import TritonMissing
from torch.utils.data import DataLoader, TensorDataset

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking.digest import weights_digest
from lightning_subnets.training import preflight
from lightning_subnets.training.module import SubnetModule
from lightning_subnets.training.schedule import learning_rate_factor


def small_network(channels: int = 1, outputs: int = 10) -> nn.Module:
    """Return a network with batch norm, whose statistics change in training."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, outputs),
    )


def sgd(lr: float = 0.1) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def small_module(**arguments: Any) -> SubnetModule:
    defaults: dict[str, Any] = {"network": small_network(), "method": ls.EdgePopup(0.5), "optimizer": sgd()}
    return SubnetModule(**(defaults | arguments))


def fit(module: LightningModule, data: Any, tmp_path: Path, **arguments: Any) -> Trainer:
    checkpoint = arguments.pop("ckpt_path", None)
    trainer = quiet_trainer(default_root_dir=tmp_path, **arguments)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return trainer


def test_training_moves_scores_and_norm_statistics_and_leaves_every_weight_alone(tmp_path: Path) -> None:
    module = small_module()
    before = {key: value.clone() for key, value in module.network.state_dict().items()}
    digest = weights_digest(module.network)
    trainer = fit(module, Digits(), tmp_path)
    moved = {key for key, value in module.network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"0.scores", "5.scores", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert weights_digest(module.network) == digest
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for name, p in module.named_parameters() if name.endswith(".scores")}


def test_the_learning_rate_is_linear_in_the_global_batch(tmp_path: Path) -> None:
    rates = []
    for batch_size, accumulate in ((32, 1), (64, 1), (32, 2)):
        module = small_module(lr_batch_size=32, schedule="constant")
        trainer = fit(
            module, Digits(batch_size=batch_size), tmp_path, limit_train_batches=2, accumulate_grad_batches=accumulate
        )
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.2, 0.2])


def test_the_schedule_warms_up_linearly_and_falls_to_zero_after_the_last_step() -> None:
    rates = [learning_rate_factor(step, 100, 10, "cosine") for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[30] == pytest.approx((1 + math.cos(math.pi * 20 / 90)) / 2)
    assert rates[100] == 0.0
    assert [learning_rate_factor(step, 100, 10, "constant") for step in (4, 10, 99)] == [0.5, 1.0, 1.0]
    assert learning_rate_factor(2, 10, 2.5, "cosine") == 1.0  # the warm-up ends within a step
    assert learning_rate_factor(10, 10, 10, "cosine") == 1.0  # the run ends with the warm-up


@pytest.mark.parametrize("end", [{"max_epochs": 2}, {"max_epochs": -1, "max_steps": 6}])
def test_each_step_has_its_own_rate_and_warmup_is_counted_in_epochs(end: dict[str, int], tmp_path: Path) -> None:
    used: list[float] = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
            used.append(trainer.optimizers[0].param_groups[0]["lr"])

    options: dict[str, Any] = {"accumulate_grad_batches": 2, "callbacks": [Watch()]} | end
    fit(small_module(warmup_epochs=1), Digits(batch_size=288), tmp_path, **options)  # the last of 5 batches is a step
    assert used == pytest.approx([0.1 * learning_rate_factor(step, 6, 3, "cosine") for step in range(6)])


@pytest.mark.parametrize("method", [ls.EdgePopup(0.5), ls.Random(0.5)], ids=str)
def test_unfreeze_makes_trainable_what_freeze_has_frozen_and_nothing_else(method: ls.Method) -> None:
    module, images = small_module(method=method, weights="kaiming_normal"), torch.rand(2, 1, 8, 8)
    trained = [parameter.requires_grad for parameter in module.parameters()]
    module.unfreeze()
    assert [parameter.requires_grad for parameter in module.parameters()] == trained
    module.freeze()
    module.freeze()
    assert not module(images).requires_grad
    module.unfreeze()
    assert [parameter.requires_grad for parameter in module.parameters()] == trained
    assert module.training
    module(images).sum().backward()
    assert [parameter.grad is not None for parameter in module.parameters()] == trained


def test_an_optimizer_that_could_not_be_resumed_is_an_error_that_names_the_argument(tmp_path: Path) -> None:
    class Own(SubnetModule):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam([parameter for parameter in self.parameters() if parameter.requires_grad])

    with pytest.raises(
        ls.UserError, match=r"Own overrides configure_optimizers.*pass schedule, warmup_epochs and optimizer=lambda"
    ):
        fit(Own(small_network(), ls.EdgePopup(0.5)), Digits(), tmp_path)
    module = small_module()
    module.configure_optimizers = lambda: None  # type: ignore[method-assign]  # as Lightning's command line does
    with pytest.raises(ls.UserError, match="SubnetModule overrides configure_optimizers"):
        fit(module, Digits(), tmp_path)


def test_an_optimization_by_hand_is_an_error_before_a_fit_alone(tmp_path: Path) -> None:
    module = small_module()
    module.automatic_optimization = False
    quiet_trainer().test(module, datamodule=Digits(), verbose=False)
    with pytest.raises(ls.UserError, match=r"SubnetModule sets automatic_optimization = False.*return the loss"):
        fit(module, Digits(), tmp_path)


def test_a_cosine_without_an_end_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ls.UserError, match="needs an end"):
        fit(small_module(), Digits(), tmp_path, max_epochs=-1)


def test_a_run_without_batches_has_a_schedule_and_a_warmup_of_no_steps(tmp_path: Path) -> None:
    assert fit(small_module(warmup_epochs=1), Digits(), tmp_path, limit_train_batches=0).global_step == 0


def test_plain_loaders_work_without_a_data_module(tmp_path: Path) -> None:
    images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 10
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(TensorDataset(images, labels), batch_size=8)
    trainer = quiet_trainer(fast_dev_run=True)
    trainer.fit(small_module(), loader, loader)
    assert "val/accuracy" in trainer.callback_metrics


class PlainData(LightningDataModule):
    """Knows neither its classes nor the size of its batches."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(torch.rand(16, 1, 8, 8), torch.arange(16) % 10), batch_size=8)

    val_dataloader = predict_dataloader = train_dataloader


def test_lr_batch_size_needs_data_with_a_batch_size(tmp_path: Path) -> None:
    with pytest.raises(ls.UserError, match="the data have no batch_size"):
        fit(small_module(lr_batch_size=32), PlainData(), tmp_path)


def test_a_network_with_auxiliary_classifiers_trains_by_its_main_one() -> None:
    network = torchvision.models.googlenet(num_classes=3, init_weights=False)
    module = small_module(network=network).train()
    assert module(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_overfit_batches_repeats_the_same_batches(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, index: int) -> None:
            seen.append(batch[1])

    with pytest.warns(UserWarning, match="overfit"):
        fit(small_module(), Digits(), tmp_path, max_epochs=2, overfit_batches=2, callbacks=[Watch()])
    assert len(seen) == 4
    assert all(torch.equal(first, second) for first, second in zip(seen[:2], seen[2:], strict=True))


def test_a_checkpoint_can_be_saved_by_a_trainer_that_only_tested(tmp_path: Path) -> None:
    module = small_module()
    trainer = quiet_trainer()
    trainer.test(module, datamodule=Digits(), verbose=False)
    trainer.save_checkpoint(tmp_path / "tested.ckpt")
    assert torch.load(tmp_path / "tested.ckpt", weights_only=True)["optimizer"] == "SGD"


def test_a_gpu_without_triton_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    class Compiled(nn.Module):
        """Fails in training as a compiled network does on a GPU."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = small_network()

        def forward(self, images: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise TritonMissing(None)
            logits: Tensor = self.layers(images)
            return logits

    module = small_module(network=Compiled())
    with pytest.raises(
        ls.UserError, match=r"^torch\.compile does not work here \(Cannot find .*set --model\.compile=false"
    ):
        fit(module, Digits(), tmp_path)


def test_sync_batchnorm_is_refused_if_it_would_remove_the_activations_of_a_network() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3), BatchNormAct2d(8), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    module = small_module(network=network.append(nn.Linear(32, 10)))
    with pytest.raises(
        ls.UserError, match=r"would replace 1 of Sequential by torch's SyncBatchNorm, without .*: leave it"
    ):
        preflight.check(module, quiet_trainer(sync_batchnorm=True, strategy="ddp"), None, command="fit")
    with pytest.raises(ls.UserError, match="needs GPUs"):  # without a fit, Lightning replaces no norms
        preflight.check(module, quiet_trainer(sync_batchnorm=True, strategy="ddp"), None)


def test_masks_that_are_loaded_are_not_chosen_again(tmp_path: Path) -> None:
    trained = small_module(method=ls.Random(0.2), weights="kaiming_normal")
    fit(trained, Digits(), tmp_path, limit_train_batches=1)
    loaded = small_module(method=ls.Random(0.2), weights="kaiming_normal", seed=5)
    loaded.load_state_dict(trained.state_dict())
    quiet_trainer().test(loaded, datamodule=Digits(), verbose=False)
    for one, other in zip(
        ls.masked_weights(trained.network).values(), ls.masked_weights(loaded.network).values(), strict=True
    ):
        assert torch.equal(one.mask(), other.mask())
