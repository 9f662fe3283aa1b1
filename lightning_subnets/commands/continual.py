"""``subnets continual``: learn many tasks on one seed by a config of ``lightning fit``, and test all of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback

from lightning_subnets import atomic_file
from lightning_subnets.commands.cli import SubnetCLI
from lightning_subnets.commands.quiet import quiet
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.errors import UserError
from lightning_subnets.experiments.continual import config as configs
from lightning_subnets.experiments.continual import picture
from lightning_subnets.experiments.continual.learning import Built, Learning
from lightning_subnets.experiments.sweep.plan import settings_of
from lightning_subnets.run_files.run_directory import lock
from lightning_subnets.run_files.summary import show_panel

_SETTINGS = "settings.json"
_OPTIONS = (
    "--trainer.enable_progress_bar=false",
    "--trainer.limit_val_batches=0",
    "--trainer.enable_checkpointing=false",
    "--trainer.devices=1",  # another process would run this command again, in the same directory
    "--trainer.num_nodes=1",
)


class TaskCLI(SubnetCLI):
    """``lightning fit`` up to the objects that it would train; ``build`` makes them again for another task."""

    def __init__(self, config: Path, option: str) -> None:
        super().__init__(["fit", "-c", str(config), f"--{option}=0", *_OPTIONS])
        key = f"fit.{option}"  # a command line may leave out init_args
        self.option = key if key in self.config else f"fit.data.init_args.{option.removeprefix('data.')}"
        if not isinstance(self.datamodule, ImageDataModule):
            raise UserError(f"{config} has the data {type(self.datamodule).__name__}: expected one of this package")

    def _prepare_run(self, config: Namespace, chosen_loggers: Any) -> list[Callback]:
        return []  # the tasks share one directory, and a task has no checkpoints

    def _run_subcommand(self, subcommand: str) -> None:
        pass  # Lightning would train here

    def build(self, number: int) -> Built:
        """Return a new module, its data and a Trainer for a task."""
        self.config[self.option] = type(self.config[self.option])(number)
        self.instantiate_classes()
        if not self._has_test:
            raise UserError(
                f"task {number} has no test images, on which its answers are compared: put them into the directory "
                "test of its image folder, or choose other data"
            )
        return self.model, self.datamodule, self.trainer


def continual(file: Path, out: Path) -> None:
    """Learn and test the tasks of a file in the directory ``out``, and print what was found."""
    quiet()
    found, config = configs.read(file)
    cli = TaskCLI(config, found.option)
    held = _claim(out)
    try:
        _keep_settings(out, json.dumps({"config": settings_of(config), "option": found.option}))
        saved = cli.config.fit.model.network.as_dict()
        learning = Learning(out, cli.build, saved)
        if len(learning.tasks) > found.tasks:
            raise UserError(f"{out} has {len(learning.tasks)} tasks, and {file} {found.tasks}: name another --out")
        try:
            learning.learn(found.tasks)
            matrix = learning.test()
        except (KeyboardInterrupt, SystemExit) as stop:  # Lightning ends the process at Ctrl-C, with exit code 1
            done = len(learning.tasks)
            print(f"stopped after {done} of {found.tasks} tasks; the same command resumes", file=sys.stderr)
            sys.exit(143 if stop.args == (143,) else 130)  # 143 is the end by SIGTERM, see end_on_sigterm
        picture.draw(learning, matrix, out / "tasks.png", f"{found.tasks} tasks on one seed")
        show_panel({**learning.summary(), "directory": str(out), "picture": "tasks.png"}, file.stem)
    finally:
        os.close(held)


def _claim(out: Path) -> int:
    """Create and lock the directory of an experiment, after a check that it has no files of something else."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        other = [name for name in ("tasks.subnet", "results.csv", "tasks.png") if (out / name).exists()]
        if other and not (out / _SETTINGS).exists():
            raise UserError(
                f"{out / other[0]} was not written by subnets continual, which would replace it: name another --out"
            )
        return lock(out)
    except BlockingIOError as error:
        raise UserError(
            f"another process is learning in {out}: wait until it has ended, or name another --out"
        ) from error
    except OSError as error:
        raise UserError(f"{out} cannot hold the tasks ({error.strerror}): name another --out") from error


def _keep_settings(out: Path, settings: str) -> None:
    """Write the settings of an experiment, after a check that the tasks of its directory were learned by the same."""
    path = out / _SETTINGS
    try:
        if (out / "tasks.subnet").exists() and path.read_bytes() != settings.encode():
            raise UserError(f"{out} has tasks of another config, or of this one before it changed: name another --out")
        atomic_file.write(path, settings)
    except OSError as error:
        raise UserError(f"{out} cannot hold the tasks ({error.strerror}): name another --out") from error
