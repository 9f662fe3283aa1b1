"""Fewer images than ranks: they can be predicted, but neither trained on nor evaluated."""

from __future__ import annotations

import csv
from pathlib import Path

from rank_processes import on_ranks, trainer
from torch import nn

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.training.callbacks import Predictions
from lightning_subnets.training.module import SubnetModule


class FewDigits(Digits):
    def __init__(self, count: int) -> None:
        super().__init__(batch_size=4)
        self.count = count

    def load(self, *, train: bool) -> Batch:
        images, labels = super().load(train=train)
        return (images, labels) if train else (images[: self.count], labels[: self.count])


def predict_and_test(folder: Path) -> str:
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), ls.EdgePopup(0.5))
    fit = trainer(callbacks=[Predictions(str(folder))])
    fit.predict(module, datamodule=FewDigits(1))
    try:
        fit.test(module, datamodule=FewDigits(1))
    except ls.UserError as error:
        return str(error)
    return "tested"


def test_one_image_is_predicted_by_one_of_two_ranks_and_is_too_few_to_test_on(tmp_path: Path) -> None:
    said = on_ranks(predict_and_test, tmp_path)
    expected = "1 images are too few for 2 processes: start at most 1, with --trainer.devices and --trainer.num_nodes"
    assert said == [expected, expected]
    (file,) = tmp_path.iterdir()
    assert file.name == "predictions.0.csv"
    assert len(file.read_text().splitlines()) == 2


def predict(folder: Path) -> list[int]:
    """Predict seven images, and return their labels."""
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), ls.EdgePopup(0.5))
    data = FewDigits(7)
    trainer(callbacks=[Predictions(str(folder))]).predict(module, datamodule=data)
    labels: list[int] = data.test_set[1].tolist()
    return labels


def test_two_ranks_write_the_number_and_the_label_of_each_image(tmp_path: Path) -> None:
    labels, _ = on_ranks(predict, tmp_path)
    files = [(tmp_path / f"predictions.{rank}.csv").read_text() for rank in range(2)]
    rows = [row for content in files for row in csv.DictReader(content.splitlines())]
    assert sorted(int(row["sample"]) for row in rows) == list(range(7))
    assert [int(row["label"]) for row in rows] == [labels[int(row["sample"])] for row in rows]
