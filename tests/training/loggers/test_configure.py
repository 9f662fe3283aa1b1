from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from lightning_subnets.training import loggers

RUN = Path("runs/experiment/version_3")


def logger(kind: str, **options: Any) -> Namespace:
    return Namespace(class_path=f"lightning.pytorch.loggers.{kind}", init_args=Namespace(**options))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("chosen", [None, True, False, logger("CSVLogger", save_dir="x", name="y")])
def test_a_run_always_has_its_csv_file(chosen: Any) -> None:
    (csv,) = loggers.configure(chosen, RUN, step=None)
    assert csv.class_path == "lightning_subnets.training.loggers.MetricsFile"
    assert vars(csv.init_args) == {"save_dir": str(RUN), "step": None}


def test_the_options_of_a_logger_are_kept_and_its_directory_is_the_runs() -> None:
    chosen = [
        logger("TensorBoardLogger", save_dir="x", log_graph=True),
        logger("WandbLogger", project="mine", name="n"),
    ]
    csv, tensorboard, wandb = loggers.configure(chosen, RUN, step=7)
    assert tensorboard.init_args.log_graph is True
    assert wandb.class_path == "lightning_subnets.training.loggers.Dashboard"
    assert (wandb.init_args.project, wandb.init_args.name) == ("mine", "n")
    assert tensorboard.init_args.save_dir == wandb.init_args.save_dir == csv.init_args.save_dir == str(RUN)
    assert csv.init_args.step == 7


def test_the_loggers_of_a_saved_config_become_those_of_the_new_run() -> None:
    saved = loggers.configure(logger("WandbLogger", project="mine"), RUN, step=7)
    csv, wandb = loggers.configure(saved, Path("runs/other/version_0"), step=None)
    assert vars(csv.init_args) == {"save_dir": "runs/other/version_0", "step": None}
    assert vars(wandb.init_args) == {"project": "mine", "save_dir": "runs/other/version_0"}


@pytest.mark.parametrize("name", ["CSVLogger", "WandbLogger", "Dashboard", "TensorBoard"])
def test_a_users_logger_of_the_same_name_is_kept_as_it_is(name: str) -> None:
    own = Namespace(class_path=f"mine.{name}", init_args=Namespace(save_dir="x"))  # type: ignore[no-untyped-call]
    _, kept = loggers.configure(own, RUN, step=None)
    assert (kept.class_path, vars(kept.init_args)) == (f"mine.{name}", {"save_dir": "x"})
