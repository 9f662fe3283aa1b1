from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_module import PlainData, fit, small_module

from lightning_subnets.training.callbacks import Predictions


def test_any_data_module_trains_and_predicts(tmp_path: Path) -> None:
    module = small_module()
    trainer = fit(module, PlainData(), tmp_path, callbacks=[Predictions(str(tmp_path / "found.csv"))])
    trainer.predict(module, datamodule=PlainData())
    assert len((tmp_path / "found.csv").read_text().splitlines()) == 17


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
