from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from small_runs import conv_module, quiet_trainer
from torch import nn
from torch.utils.data import DataLoader

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.callbacks import Progress, progress
from lightning_subnets.training.module import SubnetModule


def _run(callback: Progress, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module = SubnetModule(network, ls.EdgePopup(0.5), optimizer=lambda scores: torch.optim.SGD(scores, lr=0.1))
    options = {"enable_progress_bar": True, "limit_train_batches": 3, "default_root_dir": tmp_path}
    trainer = quiet_trainer(max_epochs=2, callbacks=[callback], **options)
    trainer.fit(module, datamodule=Digits())
    trainer.test(module, datamodule=Digits(), verbose=False)


def test_without_a_terminal_progress_is_lines_with_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_INTERVAL", -1.0)  # a line for each step
    _run(Progress(), tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "step" in line]
    assert [
        re.sub(r"accuracy \d+\.\d+%", "accuracy", re.sub(r"\d+:\d\d:\d\d left", "s left", line)) for line in lines
    ] == [
        *(f"epoch 1/2 · step {step}/6 · s left" for step in (1, 2, 3)),
        "epoch 1/2 · accuracy · step 3/6 · s left",
        *(f"epoch 2/2 · accuracy · step {step}/6 · s left" for step in (4, 5, 6, 6, 6)),
        *(f"testing · step {step}/6 · s left" for step in range(1, 7)),
    ]


def test_in_a_terminal_one_bar_goes_through_the_whole_run(tmp_path: Path) -> None:
    callback, screen = Progress(), io.StringIO()
    callback._console = Console(file=screen, force_terminal=True, width=120)
    _run(callback, tmp_path)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"epoch 2/2 · accuracy \d+\.\d+% ━+ 6/6 ", text)
    assert re.search(r"testing ━+ 6/6 ", text)


def test_a_narrow_terminal_keeps_the_counters_and_the_time_left(tmp_path: Path) -> None:
    callback, screen = Progress(), io.StringIO()
    callback._console = Console(file=screen, force_terminal=True, width=60)
    callback._trainer = quiet_trainer(default_root_dir=tmp_path)
    callback._start("epoch 100/100 · accuracy 96.25%", 123456, 0)
    callback._show("epoch 100/100 · accuracy 96.25%", 23456)
    callback._stop()
    assert "accuracy 96.25%  23456/123456 left -:--:--" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())


def test_progress_can_be_turned_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = Progress()
    callback.disable()
    _run(callback, tmp_path)
    assert "step" not in capsys.readouterr().err


def test_the_time_left_of_a_resumed_run_is_at_the_pace_since_it_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    callback = Progress()
    callback._trainer = quiet_trainer(default_root_dir=tmp_path)
    callback._start("training", 1000, 900)
    clock[0] += 100
    callback._show("training", 910)
    assert capsys.readouterr().err == "training · step 910/1000 · 0:15:00 left\n"


def test_a_prediction_has_a_line_for_each_of_its_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_INTERVAL", -1.0)
    images: Any = torch.rand(10, 1, 8, 8)
    trainer = quiet_trainer(enable_progress_bar=True, callbacks=[Progress()], default_root_dir=tmp_path)
    trainer.predict(conv_module(), DataLoader(images, batch_size=4))
    lines = [line.rpartition(" · ")[0] for line in capsys.readouterr().err.splitlines() if "step" in line]
    assert lines == [f"predicting · step {step}/3" for step in (1, 2, 3)]
