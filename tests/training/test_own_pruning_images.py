"""Methods that choose masks before training take their images from any data module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from small_runs import quiet_trainer
from torch import nn
from torch.utils.data import DataLoader

import lightning_subnets as ls
from lightning_subnets.training.module import SubnetModule


class Own(LightningDataModule):
    """The batches of a list, without a collate function."""

    def __init__(self, *batches: Any, loaders: int = 1) -> None:
        super().__init__()
        self.batches, self.loaders = batches, loaders

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        loaders = [self.train_dataloader() for _ in range(self.loaders)]
        return loaders if self.loaders > 1 else loaders[0]


def network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def fit(data: LightningDataModule, built: nn.Module | None = None, method: Any = None, **options: Any) -> SubnetModule:
    method = method or ls.EdgePopup(0.5)
    module = SubnetModule(built or network(), method, optimizer=lambda each: torch.optim.SGD(each, lr=0.1))
    quiet: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": False}
    quiet |= {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False}
    Trainer(**(quiet | options)).fit(module, data)
    return module


IMAGES, LABELS = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])


class Samples(Own):
    """A shuffled DataLoader of 120 images, 40 of each of three classes."""

    def train_dataloader(self) -> DataLoader[Any]:
        images = torch.rand(120, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        return DataLoader(list(zip(images, torch.arange(120) % 3, strict=True)), 8, shuffle=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [ls.SNIP(0.5), ls.GraSP(0.5), ls.SynFlow(0.5), ls.PHEW(0.5)], ids=repr)
def test_a_method_that_requires_images_takes_them_from_any_data_module(method: Any) -> None:
    masks = []
    for seed in (1, 2):  # of the process, as on another rank
        torch.manual_seed(0)
        built = network()
        torch.manual_seed(seed)
        masks.append(ls.masks(fit(Samples(), built, method, max_steps=1, limit_val_batches=0).network))
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


def test_a_class_with_too_few_images_is_named() -> None:
    with pytest.raises(ls.UserError, match=r"SNIP scores weights on 10 images .* of Own have 2 of class 1: .* outputs"):
        fit(Own(*[(IMAGES, torch.tensor([0, 0, 2, 2]))] * 9, (IMAGES, LABELS), (IMAGES, LABELS)), method=ls.SNIP(0.5))


class InSetup(Own):
    """Makes its training set in ``setup`` for fit only."""

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train_set = Samples().train_dataloader()

    def train_dataloader(self) -> DataLoader[Any]:
        return self.train_set

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([(IMAGES, LABELS)], batch_size=None)  # type: ignore[arg-type]

    test_dataloader = val_dataloader


@pytest.mark.parametrize("method", [ls.SNIP(0.5), ls.SynFlow(0.5)], ids=repr)
def test_an_evaluation_whose_data_have_no_training_set_says_that_masks_are_chosen_from_it(method: Any) -> None:
    module = SubnetModule(network(), method)
    message = r"are chosen from training images: .*InSetup.train_dataloader\(\) fails \(AttributeError: .*train_set"
    for stage in ("validate", "test"):
        with pytest.raises(ls.UserError, match=message) as caught:
            getattr(quiet_trainer(), stage)(module, datamodule=InSetup())
        assert isinstance(caught.value.__cause__, AttributeError)
    quiet_trainer(limit_train_batches=1).fit(module.train(), datamodule=InSetup())
    assert ls.density(module.network) == pytest.approx(0.5, abs=0.02)
    quiet_trainer().validate(module, datamodule=InSetup(), verbose=False)


def test_an_error_of_a_users_training_set_in_a_fit_stays_as_it_is() -> None:
    class Broken(Samples):
        reads = 0

        def train_dataloader(self) -> DataLoader[Any]:
            self.reads += 1
            if self.reads == 2:  # Lightning reads the loader before the method
                raise OSError("no such disk")
            return super().train_dataloader()

    module = SubnetModule(network(), ls.SNIP(0.5, samples_per_class=2))
    with pytest.raises(OSError, match="no such disk"):
        quiet_trainer(limit_val_batches=0).fit(module, datamodule=Broken())


@pytest.mark.parametrize("method", [ls.SNIP(0.5), ls.SynFlow(0.5)], ids=repr)
def test_data_without_a_batch_are_named(method: Any) -> None:
    class Few(Samples):
        def train_dataloader(self) -> Any:
            return DataLoader(super().train_dataloader().dataset, 1000, drop_last=True)

        def val_dataloader(self) -> Any:
            return DataLoader(super().train_dataloader().dataset, 8)

    with pytest.raises(ls.UserError, match="the training loader of Few has no batch: look at what its data set reads"):
        quiet_trainer().validate(SubnetModule(network(), method), datamodule=Few(), verbose=False)
