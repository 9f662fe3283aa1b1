"""The ``lightning`` command: LightningCLI with a directory for each run, and errors in one line."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from jsonargparse.typing import restricted_number_type
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_subnets import masking
from lightning_subnets._version import in_words
from lightning_subnets.commands import failures
from lightning_subnets.commands.arguments import with_home
from lightning_subnets.commands.help import DESCRIPTIONS
from lightning_subnets.commands.lost_ranks import end_on_sigterm, ending_with_launcher
from lightning_subnets.commands.mistakes import CommandLine
from lightning_subnets.commands.parser import Parser
from lightning_subnets.commands.quiet import quiet
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.errors import UserError, printable
from lightning_subnets.run_files import drawing, saved_run, summary
from lightning_subnets.run_files.builders import (
    accept_builders_without_annotation,
    as_constructor_error,
    current_directory_last,
    leave_defaults_to_builder,
)
from lightning_subnets.run_files.naming_checkpoints import ROOT, checkpoint_named, no_checkpoint_given, run_of
from lightning_subnets.run_files.run_directory import RunDirectory
from lightning_subnets.run_files.saved_config import SaveConfig, with_config_of_checkpoint
from lightning_subnets.subnet_file import load_subnet
from lightning_subnets.subnet_file.container import Container
from lightning_subnets.subnet_file.loading import cast_
from lightning_subnets.training import checkpoint, loggers, preflight, strategies
from lightning_subnets.training.callbacks import (
    BestCheckpoint,
    GradientNorm,
    LastCheckpoint,
    MaskStatistics,
    Predictions,
    Progress,
    Throughput,
)
from lightning_subnets.training.callbacks.last_checkpoint import REQUEUE, Stopped
from lightning_subnets.training.checkpoint import CheckpointFiles
from lightning_subnets.training.lightning_internals import cluster_environment, copies_this_process
from lightning_subnets.training.module import SubnetModule

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])  # the range of NumPy's seeds


def main(args: list[str] | None = None) -> None:
    """Run a command line; end it with one clear error and exit code 2 if it has a mistake."""
    quiet()
    strategies.register()
    with ending_with_launcher(), failures.told_in_one_line():
        SubnetCLI(with_home(args))


class SubnetCLI(LightningCLI):
    """LightningCLI for a ``SubnetModule`` and any data module.

    A fit writes its checkpoints, metrics, config, summary and pictures into its own directory,
    ``<trainer.default_root_dir>/<name>/version_N``. It resumes the run if ``--version`` names an existing one.
    """

    run: RunDirectory | None = None
    last: LastCheckpoint | None = None
    subnet: str | None = None  # the file to evaluate
    content: dict[str, Any] | None = None  # of the checkpoint to start from, until it is checked

    def __init__(self, args: list[str]) -> None:
        accept_builders_without_annotation()
        try:
            super().__init__(
                SubnetModule,
                LightningDataModule,
                subclass_mode_data=True,
                parser_class=Parser,
                parser_kwargs={"version": in_words(), **DESCRIPTIONS},
                trainer_defaults={"default_root_dir": ROOT, "enable_model_summary": False},
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                save_config_kwargs={"save_to_log_dir": False},
                args=args,
            )
        except Stopped as stopped:
            self._end(stopped.exit_code)
            raise
        finally:
            if self.run is not None:
                self.run.release(sys.exception())

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        seed = "Seed of the weights, the scores, the order of the data and everything else."
        name = "Name of the run, by default the name of the config file."
        version = (
            "Directory of the run in <trainer.default_root_dir>/<name>, by default the next free version_N. An "
            "existing run is resumed."
        )
        parser.add_argument("--seed_everything", type=Seed, default=0, help=seed)
        parser.add_argument("--name", type=str | None, default=None, help=name)
        parser.add_argument("--version", type=str | None, default=None, help=version)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Predictions, "predictions")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)
        completed = with_config_of_checkpoint(args)
        Parser.line = CommandLine(completed, Path.cwd())
        # The config of a .subnet file, which is inserted as JSON, names nothing of the current directory.
        with current_directory_last([arg for arg in completed if arg in args or arg[:1] != "{"]):
            self.config: Namespace = parser.parse_args(completed)
        config = self.config[self.config.subcommand]
        if config.name is None:
            config.name = Path(str(config.config[-1])).stem.lstrip(".") if config.config else "unnamed"

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint, instead of replacing the config by its hyperparameters as Lightning does."""
        config = self.config[self.config.subcommand]
        root = config.trainer.default_root_dir
        if config.ckpt_path is None:
            if self.config.subcommand != "fit":
                raise no_checkpoint_given(self.config.subcommand, root, config.name)
            return
        resumes = self.config.subcommand == "fit" and config.version and not config.trainer.fast_dev_run
        if resumes and RunDirectory(Path(root, config.name, config.version)).last_checkpoint:
            with suppress(UserError):  # the checkpoint from which the run began is not read, and may have gone
                config.ckpt_path = checkpoint_named(config.ckpt_path, root, config.name)
            return
        config.ckpt_path = checkpoint_named(config.ckpt_path, root, config.name)
        if config.ckpt_path.endswith(".subnet"):
            if self.config.subcommand == "fit":
                raise UserError(
                    f"{config.ckpt_path} has no optimizer state to resume from: train weights under its mask with "
                    f"--model.method=FixedMask --model.method.masks={shlex.quote(config.ckpt_path)}"
                )
            self.subnet, config.ckpt_path = config.ckpt_path, None
            return
        run = run_of(config.ckpt_path)
        if self.config.subcommand == "predict" and config.predictions.path is None and (run / "config.yaml").is_file():
            config.predictions.path = os.path.relpath(run)
        content, limits = checkpoint.read(config.ckpt_path), (config.trainer.max_epochs, config.trainer.max_steps)
        if self.config.subcommand == "fit":
            checkpoint.check_unfinished(config.ckpt_path, content, *limits)
            self.content = content

    def before_instantiate_classes(self) -> None:
        config = self.config[self.config.subcommand]
        leave_defaults_to_builder(config.model.network)
        callbacks: list[Callback] = []
        if config.trainer.enable_progress_bar is not False:
            callbacks.append(Progress())
        # With fast_dev_run, Lightning replaces any logger by one that writes nothing, which some callbacks ask for.
        chosen_loggers, config.trainer.logger = config.trainer.logger, bool(config.trainer.fast_dev_run)
        self.save_config_callback = None
        self.fit_from: Path | str | None = config.get("ckpt_path")
        if self.subcommand == "fit" and not config.trainer.fast_dev_run:
            callbacks += self._prepare_run(config, chosen_loggers)
        self.trainer_defaults["callbacks"] = callbacks

    def _prepare_run(self, config: Namespace, chosen_loggers: Any) -> list[Callback]:
        """Claim the run's directory, read its last checkpoint, and return the callbacks that write into it."""
        self.run = RunDirectory.claim(config.trainer.default_root_dir, config.name, config.version)
        if config.version and self.run.summary.exists():
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                path = printable(str(self.run.path))
                print(f"{path} is finished: --ckpt_path starts another run from its checkpoint")
            sys.exit(0)
        step = 0
        if last := self.run.last_checkpoint:
            self.content, self.fit_from = checkpoint.read(last), last
            checkpoint.check_limits(last, self.content, config.trainer.max_epochs, config.trainer.max_steps)
            step = self.content["global_step"]
            if config.ckpt_path:
                print(printable(f"resuming from {last}, not from {config.ckpt_path}"), file=sys.stderr)
        config.trainer.logger = loggers.configure(chosen_loggers, self.run.path, step=step)
        self.save_config_callback = SaveConfig
        callbacks: list[Callback] = [MaskStatistics(), Throughput(), GradientNorm()]
        if config.trainer.enable_checkpointing is not False:
            folder = self.run.path / "checkpoints"
            if config.trainer.limit_val_batches != 0:
                callbacks.append(BestCheckpoint(folder))
            self.last = LastCheckpoint(folder)  # after the best one, because it saves that one's path
            callbacks.append(self.last)
        return callbacks

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, OSError, ImportError, RuntimeError, AttributeError) as error:
            # The constructor of a network or an optimizer refuses an argument from the config.
            raise as_constructor_error(error) from error

        if self.trainer.precision == "64-true":
            # Lightning converts the network later, but checkpoints are compared with its weights before that.
            self.model.double()
        if self.subnet:
            # A file may be of any dtype, and Module.to would also cast tables outside the state dict.
            cast_(load_subnet(self.subnet, network=self.model.unmask_()), self.model.dtype)

        environment = cluster_environment(self.trainer)
        if isinstance(environment, SLURMEnvironment):
            environment.auto_requeue = False  # its checkpoint would be outside the run's directory
        end_on_sigterm(self.trainer)
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = CheckpointFiles()
        self._check_before_launch()
        self.content = None

    def _check_before_launch(self) -> None:
        """Check before DDP starts its workers; afterwards we could only kill them."""
        if copies_this_process(self.trainer):
            raise UserError(
                "ddp_spawn, ddp_fork and ddp_notebook copy this process, and the command has to run in each process: "
                "take --trainer.strategy=ddp"
            )
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            if self.content:
                checkpoint.validate_and_complete_(self.content, self.model, to_train=True)
            if isinstance(self.datamodule, ImageDataModule):
                self.datamodule.prepare_data()  # which may download the names of the classes
                if self.subnet:
                    self.datamodule.check_classes(Container(self.subnet).header.classes)
                if self.content and "data" in self.content["run"]:
                    self.datamodule.check_classes(self.content["run"]["data"]["classes"])
            preflight.check(self.model, self.trainer, self.datamodule, command=self.subcommand)
            if self.last:
                self.last.check_room(self.model)

    @property
    def _has_test(self) -> bool:
        return getattr(self.datamodule, "has_test_set", is_overridden("test_dataloader", self.datamodule))

    def before_fit(self) -> None:
        self.config_init.fit.ckpt_path = self.fit_from
        if self.run is not None:
            self.run.start()
        if not self._has_test and self.trainer.is_global_zero:
            print(type(self.datamodule).__name__, "has no test images, so the run ends without a test", file=sys.stderr)
        self.weights_digest = summary.weights_digest(self.model)
        self.start = time.perf_counter()

    def after_fit(self) -> None:
        if self.run is None:
            return
        seconds = self.last.seconds if self.last else time.perf_counter() - self.start
        # If the time limit is near, test and report when the job is started again.
        signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0 if self.trainer.global_rank else REQUEUE))
        if self._has_test:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        if self.trainer.is_global_zero:
            self._report(seconds)
        self._end(exit_code=0)

    def _end(self, exit_code: int) -> None:
        """Wait for all ranks: a launcher kills the others soon after the first one has ended."""
        loggers.finish(self.trainer.loggers, exit_code)
        self.trainer.strategy.barrier("end of the run")

    def _report(self, seconds: float) -> None:
        assert self.run is not None
        result, diagnosis = summary.summarize(
            self.model, self.datamodule, digest_before=self.weights_digest, seconds=seconds
        )
        result |= summary.best_epoch(self.run.path)
        result["file_bytes"] = saved_run.save_subnet_beside(self.run.last_checkpoint, self.model, result)
        layers = list(masking.masked_weights(self.model.network))
        try:
            pictures = drawing.draw_run(
                self.run.path, layers=layers, evaluated_on=result["validated_on"], diagnosis=diagnosis
            )
            summary.write(result, self.run.summary)  # last, because it marks the run as finished
        except OSError as error:
            raise UserError(
                f"the run is done, but its report cannot be written to {self.run.path} ({error.strerror}): make room "
                f"and repeat the command with --version {shlex.quote(self.run.path.name)}"
            ) from error
        loggers.add_pictures(self.trainer.loggers, pictures)
        summary.show(result, self.run.path, pictures)
        method = self.model.method
        if method.trainable == "scores" and not method.rerandomizes and not result["weights_unchanged"]:
            raise RuntimeError("frozen weights have changed: please report this, with the run's config.yaml")
