"""Each stage computes with the masks of its own scores: training with the present ones, evaluation with the average."""

from __future__ import annotations

import copy
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from small_runs import quiet_trainer
from torch import Tensor
from torch.func import functional_call

from lightning_subnets import EdgePopup, masked_weights, unmask_
from lightning_subnets.datamodules import Digits
from lightning_subnets.networks import Conv2
from lightning_subnets.training.module import SubnetModule


class Watch(Callback):
    """Compares what is computed with what a plain sort of the present scores chooses."""

    def __init__(self) -> None:
        self.scores: dict[str, list[Tensor]] = {"train": [], "val": [], "test": []}

    def check(self, stage: str, module: LightningModule, images: Tensor) -> None:
        assert isinstance(module, SubnetModule)
        state = {key: value for key, value in module.network.state_dict().items() if not key.endswith("scores")}
        for name, weight in masked_weights(module.network).items():
            assert weight.scores is not None
            mask = torch.zeros(weight.weight.numel())
            mask[weight.scores.abs().flatten().argsort(descending=True, stable=True)[: weight.num_kept]] = 1.0
            state[name] = weight.weight * mask.view(weight.weight.shape)
        plain = unmask_(copy.deepcopy(module.network))
        with torch.no_grad():
            assert torch.equal(module(images), functional_call(plain, state, images))
        (scores, *_) = (weight.scores for weight in masked_weights(module.network).values())
        assert scores is not None
        self.scores[stage].append(scores.detach().clone())

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *_: Any) -> None:
        self.check("train", module, batch[0])

    def on_validation_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *_: Any) -> None:
        self.check("val", module, batch[0])

    def on_test_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *_: Any) -> None:
        self.check("test", module, batch[0])


def trainer_with(*callbacks: Callback, limit_val_batches: int) -> Trainer:
    limits = {"max_epochs": 2, "limit_train_batches": 3, "limit_test_batches": 1}
    return quiet_trainer(callbacks=callbacks, limit_val_batches=limit_val_batches, **limits)


def module() -> SubnetModule:
    return SubnetModule(
        Conv2(in_channels=1, image_size=8),
        EdgePopup(0.5),
        optimizer=lambda scores: torch.optim.SGD(scores, lr=1.0, fused=True),
    )


def test_without_validation_the_network_ends_with_the_masks_of_the_average_and_can_be_trained_again() -> None:
    watch, network = Watch(), module()
    for _ in range(2):
        trainer_with(EMAWeightAveraging(decay=0.5), watch, limit_val_batches=0).fit(network, Digits(batch_size=32))
        watch.check("test", network, torch.randn(4, 1, 8, 8))
        assert not torch.equal(watch.scores["test"][-1], watch.scores["train"][-1])


def test_with_averaged_scores_each_stage_computes_with_the_masks_of_its_own() -> None:
    watch, network = Watch(), module()
    trainer = trainer_with(EMAWeightAveraging(decay=0.5), watch, limit_val_batches=2)
    data = Digits(batch_size=32)
    trainer.fit(network, data)
    trainer.test(network, data, verbose=False)
    # The average was another network than the one in training, or nothing was tested.
    assert not torch.equal(watch.scores["val"][-1], watch.scores["train"][-1])
    assert torch.equal(watch.scores["val"][-1], watch.scores["test"][-1])
