from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from lightning_subnets import loggers

RUN = Path("runs/experiment/version_3")


def logger(kind: str, **options: Any) -> Namespace:
    return Namespace(class_path=f"lightning.pytorch.loggers.{kind}", init_args=Namespace(**options))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("chosen", [None, True, False])
def test_a_run_always_has_its_csv_file(chosen: bool | None) -> None:
    (csv,) = loggers.configure(chosen, RUN)
    assert csv.class_path.endswith("CSVLogger")
    assert csv.init_args.save_dir == str(RUN)


def test_the_options_of_a_logger_are_kept_and_its_directory_is_the_runs() -> None:
    chosen = [
        logger("TensorBoardLogger", save_dir="x", log_graph=True),
        logger("CSVLogger", flush_logs_every_n_steps=5),
    ]
    csv, tensorboard = loggers.configure(chosen, RUN)
    assert csv.init_args.flush_logs_every_n_steps == 5
    assert tensorboard.init_args.log_graph is True
    assert tensorboard.init_args.save_dir == csv.init_args.save_dir == str(RUN)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, "experiment/version_3"), ("other/version_0", "experiment/version_3"), ("mine", "mine")],
)
def test_a_run_on_weights_and_biases_has_a_name_of_its_own(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    _, wandb = loggers.configure(logger("WandbLogger", name=given, project=None, offline=False), RUN)
    assert wandb.init_args.name == expected
    assert wandb.init_args.project == "lightning-subnets"
    assert wandb.init_args.offline is False  # or a saved config would never look for a key again
