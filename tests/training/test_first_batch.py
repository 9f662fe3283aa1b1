"""Batches that a network cannot learn from are refused before the first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_runs import conv_module, quiet_trainer
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.module import SubnetModule
from lightning_subnets.training.trial_pass import check_batch

IMAGE = torch.zeros(1, 8, 8)


class Named(nn.Module):
    """A network whose output is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"scores": self.head(images.flatten(1))}


def fit(samples: list[Any], module: SubnetModule, sanity_steps: int, batch_size: int = 4) -> None:
    trainer = quiet_trainer(num_sanity_val_steps=sanity_steps)
    loader: DataLoader[Any] = DataLoader(samples, batch_size)  # type: ignore[arg-type]
    try:
        trainer.fit(module, loader, loader)
    finally:
        assert trainer.global_step == 0


SAMPLES: dict[str, tuple[Any, str]] = {
    "dict": ({"pixels": IMAGE, "label": 1}, r"is a dict with the keys \['pixels', 'label'\]: give \(images, labels\)"),
    "triple": ((IMAGE, 1, 2), r"has 3 parts \(Tensor, Tensor, Tensor\)"),
    "bytes": ((IMAGE.byte(), 1), r"are torch.uint8: convert and normalise them.*ToDtype"),
    "int32": ((IMAGE, torch.tensor(1, dtype=torch.int32)), r"labels .* are torch.int32 .*: give torch.int64"),
    "label": ((IMAGE, 10), r"has labels 10, and Sequential has 10 outputs, for labels from 0 to 9"),
    "ignored": ((IMAGE, -1), r"has labels -1, and Sequential"),
    "soft": ((IMAGE, torch.ones(7) / 7), r"has labels of 7 classes, and Sequential has 10 outputs"),
    "several": (
        (IMAGE, torch.tensor([1.0, 1.0] + [0.0] * 8)),
        r"no probabilities: a row has the sum 2 and the least num",
    ),
    "real": (
        (IMAGE, torch.tensor([2.0, -1.0] + [0.0] * 8)),
        r"sum 1 and the least number -1, .*in a LightningModule of",
    ),
    "colour": ((IMAGE.expand(3, 8, 8), 1), r"Sequential cannot take the images of .*, \(3, 8, 8\)"),
}


@pytest.mark.parametrize("sanity_steps", [0, 2])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_batch_that_does_not_fit_is_refused_before_the_first_step(name: str, sanity_steps: int) -> None:
    sample, message = SAMPLES[name]
    with pytest.raises(ls.UserError, match=message):
        fit([sample] * 8, conv_module(), sanity_steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probabilities_and_the_labels_of_a_loss_of_ones_own_are_taken(dtype: torch.dtype) -> None:
    soft = ((torch.arange(10) == 3) * 0.7 + (torch.arange(10) == 5) * 0.3) * 0.9 + 0.1 / 10
    module = conv_module()
    assert check_batch(module, (IMAGE[None], soft[None].to(dtype)), "the loader") == 10
    module.loss = nn.BCEWithLogitsLoss()  # type: ignore[assignment]
    assert check_batch(module, (IMAGE[None], torch.ones(1, 10, dtype=dtype)), "the loader") == 10


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_that_does_not_fit_is_found_wherever_it_is_in_the_batch(label: int) -> None:
    with pytest.raises(ls.UserError, match=f"has labels {label}, and Sequential has 10 outputs"):
        fit([(IMAGE, 1), (IMAGE, label), (IMAGE, 1), (IMAGE, 2)], conv_module(), 0)


def test_a_dict_is_refused_in_batches_of_one_too() -> None:
    with pytest.raises(ls.UserError, match="is a dict with the keys"):
        fit([SAMPLES["dict"][0]] * 8, conv_module(), 0, batch_size=1)


def test_a_network_with_an_output_of_another_kind_is_refused_by_name() -> None:
    module = SubnetModule(Named(), ls.EdgePopup(0.5), optimizer=lambda scores: optim.SGD(scores, lr=0.1))
    for batch_size in (4, 1):
        with pytest.raises(
            ls.UserError, match=r"^Named returns a dict with the keys \['scores'\]: return a tensor of l"
        ):
            fit([(IMAGE, 1)] * 8, module, 0, batch_size)


def test_logits_of_another_shape_are_refused() -> None:
    module = SubnetModule(nn.Sequential(nn.Flatten(2), nn.Linear(64, 10)), ls.EdgePopup(0.5))
    with pytest.raises(
        ls.UserError, match=r"Sequential gives logits of shape \(1, 1, 10\) for one image: return \(bat"
    ):
        fit([(IMAGE, 1)] * 8, module, 0)


@pytest.mark.parametrize(("last", "shape"), [(nn.Flatten(0), r"\(10,\)"), (nn.Unflatten(1, (1, 10)), r"\(1, 1, 10\)")])
def test_logits_of_another_shape_are_refused_before_our_data_are_read(last: nn.Module, shape: str) -> None:
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), last), ls.EdgePopup(0.5))
    with pytest.raises(ls.UserError, match=rf"^Sequential gives logits of shape {shape} for one image: return \(bat"):
        quiet_trainer().fit(module, datamodule=Digits())


@pytest.mark.parametrize("sanity_steps", [0, 2])
def test_several_validation_loaders_are_refused_before_the_first_step(sanity_steps: int) -> None:
    trainer = quiet_trainer(num_sanity_val_steps=sanity_steps)
    loader: DataLoader[Any] = DataLoader([(IMAGE, 1)] * 8, 4)  # type: ignore[arg-type]
    with pytest.raises(ls.UserError, match="there are 2 loaders to evaluate on: return one"):
        trainer.fit(conv_module(), loader, [loader, loader])
    assert trainer.global_step == 0
    with pytest.raises(ls.UserError, match="there are 2 loaders to evaluate on: return one"):
        quiet_trainer().test(conv_module(), [loader, loader])


class Auxiliary(nn.Module):
    """Has a second output in training."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Any:
        logits = self.head(images.flatten(1))
        return (logits, logits) if self.training else logits


def test_a_tuple_that_a_network_returns_only_in_training_is_no_divergence() -> None:
    module = SubnetModule(Auxiliary(), ls.EdgePopup(0.5), optimizer=lambda scores: optim.SGD(scores, lr=0.1))
    with pytest.raises(ls.UserError, match=r"^Auxiliary returns a tuple: return a tensor of logits"):
        fit([(IMAGE, 1)] * 8, module, 0)
