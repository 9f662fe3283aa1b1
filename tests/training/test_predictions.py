from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from small_runs import quiet_trainer
from test_module import PlainData, fit, small_module
from torch.utils.data import DataLoader, TensorDataset

import lightning_subnets as ls
from lightning_subnets.training.callbacks import Predictions


def test_any_data_module_trains_and_predicts(tmp_path: Path) -> None:
    module = small_module()
    trainer = fit(module, PlainData(), tmp_path, callbacks=[Predictions(str(tmp_path / "found.csv"))])
    trainer.predict(module, datamodule=PlainData())
    assert len((tmp_path / "found.csv").read_text().splitlines()) == 17


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_images_without_labels_are_predicted(alone: bool, labelled: bool, tmp_path: Path) -> None:
    images, path = torch.rand(10, 1, 8, 8), tmp_path / "found.csv"
    data: Any = images if alone else TensorDataset(images, *([torch.arange(10)] if labelled else []))
    trainer = quiet_trainer(callbacks=[Predictions(str(path))])
    module = small_module(channels_last=True)
    found = trainer.predict(module, DataLoader(data, batch_size=4))
    probabilities = torch.cat(found)  # type: ignore[arg-type]
    torch.testing.assert_close(probabilities, module.eval()(images).softmax(dim=1))
    rows = [*csv.DictReader(path.read_text().splitlines())]
    assert [row["predicted"] for row in rows] == [str(int(index)) for index in probabilities.argmax(dim=1)]
    assert [float(row["probability"]) for row in rows] == pytest.approx(probabilities.amax(dim=1).tolist(), abs=1e-6)
    labels = [str(label) for label in range(10)] if labelled and not alone else [""] * 10
    assert [row["label"] for row in rows] == labels


def test_predictions_need_images_from_one_loader() -> None:
    images: Any = torch.rand(4, 1, 8, 8)
    records: Any = [{"image": image} for image in images]
    with pytest.raises(ls.UserError, match="a batch to predict is a dict: give images"):
        quiet_trainer().predict(small_module(), DataLoader(records))
    with pytest.raises(ls.UserError, match="there are 2 loaders to evaluate on"):
        quiet_trainer().predict(small_module(), [DataLoader(images), DataLoader(images)])


@pytest.mark.parametrize("where", ["on_predict_batch_end", "fsync"])
def test_a_prediction_that_fails_leaves_no_file(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("full")

    module, path = small_module(), tmp_path / "found.csv"
    trainer = fit(module, PlainData(), tmp_path, callbacks=[Predictions(str(path))])
    monkeypatch.setattr(module if where != "fsync" else os, where, fail)
    with pytest.raises(OSError, match="full"):
        trainer.predict(module, datamodule=PlainData())
    assert not list(tmp_path.glob("*found*"))
    monkeypatch.undo()
    trainer.predict(module, datamodule=PlainData())
    assert len(path.read_text().splitlines()) == 17


@pytest.mark.parametrize("named", ["", "predictions.csv"], ids=["directory", "file"])
def test_two_predictions_at_once_get_a_file_each(
    named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, module = torch.rand(10, 1, 8, 8), small_module()

    class Nested(Callback):
        def on_predict_batch_start(self, *_: Any) -> None:
            predict(4)

    def predict(count: int, *meanwhile: Callback) -> None:
        trainer = quiet_trainer(callbacks=[Predictions(str(tmp_path / named)), *meanwhile])
        trainer.predict(module, DataLoader(images[:count]), return_predictions=False)  # type: ignore[arg-type]

    predict(1, Nested())
    lines = {path.name: len(path.read_text().splitlines()) for path in tmp_path.iterdir()}
    assert lines == {"predictions.csv": 1 + 4, "predictions_1.csv": 1 + 1}
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()] == [*lines]


def test_each_call_of_predict_writes_a_file_of_its_own(tmp_path: Path) -> None:
    trainer, images = quiet_trainer(callbacks=[Predictions(str(tmp_path))]), torch.rand(3, 1, 8, 8)
    for count in (1, 2, 3):
        trainer.predict(small_module(), DataLoader(images[:count]))  # type: ignore[arg-type]
    lines = {path.name: len(path.read_text().splitlines()) for path in tmp_path.iterdir()}
    assert lines == {"predictions.csv": 2, "predictions_1.csv": 3, "predictions_2.csv": 4}
