"""A logger for Weights & Biases that keeps one W&B run per run directory and never stops a run."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.logger import _add_prefix
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import WandbLogger

from lightning_subnets import atomic_file
from lightning_subnets._version import versions

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import ModelCheckpoint
    from wandb import Run

# In seconds. Without them wandb waits 90 s for a server at the start of a run and without limit at its end.
_TIMEOUTS = {"init_timeout": 30.0, "finish_timeout": 30.0}


class Dashboard(WandbLogger):
    """Lightning's ``WandbLogger`` for runs that are stopped and resumed.

    The W&B step is the optimizer step, as in ``metrics.csv``. A resumed run continues its W&B run from the step at
    which it resumes; W&B ignores steps that it already has.

    Without an API key, or if the server does not accept the run within 30 s, the run is logged offline. If W&B fails
    later, training continues without it.

    Args:
        save_dir: the run's directory.
        name: of the W&B run; by default the last two parts of the run's directory.
        project: by default ``WANDB_PROJECT``, or else ``lightning-subnets``.
        kwargs: as for ``WandbLogger``.
    """

    def __init__(self, save_dir: str, name: str | None = None, project: str | None = None, **kwargs: Any) -> None:
        self._directory = Path(save_dir)
        self._failed = False
        super().__init__(
            save_dir=save_dir,
            name=name or f"{self._directory.parent.name}/{self._directory.name}",
            project=project or os.environ.get("WANDB_PROJECT", "lightning-subnets"),
            **kwargs,
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Run:
        if self._experiment is None:
            self._experiment = self._begin()
        return cast("Run", self._experiment)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        # jsonargparse returns subclasses of numbers, which wandb would show as text.
        self._attempt(super().log_hyperparams, json.loads(json.dumps(params, default=str)))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = _add_prefix(metrics, self._prefix, self.LOGGER_JOIN_CHAR)
        # wandb collects one row per step and sends the row when the step grows or the run ends.
        self._attempt(self.experiment.log, dict(row), step=step, commit=False)

    @rank_zero_only
    def add_pictures(self, pictures: Iterable[Path]) -> None:
        """Add pictures to the last row."""
        self._attempt(self._log_pictures, self.experiment, pictures)

    def _log_pictures(self, run: Run, pictures: Iterable[Path]) -> None:
        import wandb

        run.log({f"pictures/{path.stem}": wandb.Image(str(path)) for path in pictures}, commit=False)

    def _scan_and_log_checkpoints(self, checkpoint_callback: ModelCheckpoint) -> None:  # with log_model
        self._attempt(super()._scan_and_log_checkpoints, checkpoint_callback)

    @rank_zero_only
    def finish(self, exit_code: int) -> None:
        """End the W&B run with the exit code of the process; the code for a requeue marks it as preempted."""
        run, self._experiment = self._experiment, None
        if run is not None:
            self._attempt(self._end, run, exit_code)

    def _end(self, run: Run, exit_code: int) -> None:
        import wandb

        if exit_code == os.EX_TEMPFAIL:
            run.mark_preempting()
        run.finish(exit_code)
        wandb.teardown()  # returns when the W&B file is complete

    def _attempt(self, action: Callable[..., None], *arguments: Any, **options: Any) -> None:
        try:
            if not self._failed:
                action(*arguments, **options)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Give up on W&B. If its process has ended, wandb raises whatever error the lost connection causes."""
        import wandb

        self._failed = True
        print(f"W&B has failed ({error!r}): {self._directory}/metrics.csv has all metrics", file=sys.stderr)
        with suppress(Exception):
            wandb.teardown()  # otherwise wandb tries it when Python exits, and shows a traceback

    def _begin(self) -> Run:
        import wandb  # takes half a second

        timeouts: dict[str, Any] = {k: v for k, v in _TIMEOUTS.items() if f"WANDB_{k.upper()}" not in os.environ}
        settings = wandb.Settings(silent=True, **timeouts)
        options: dict[str, Any] = {
            "group": os.environ.get("WANDB_RUN_GROUP", self._directory.parent.name),
            "config": {"versions": versions()},
            "settings": settings,
            "mode": "offline" if self._offline else wandb.setup(settings).settings.mode,
            **{key: value for key, value in self._wandb_init.items() if value is not None},
            "resume": "allow",
        }
        options.setdefault("id", self._run_id())
        if options["mode"] == "online":
            try:
                if wandb.login(prompt=False, verify=False):
                    run = wandb.init(**options)
                    print(f"W&B: {run.url}", file=sys.stderr)
                    return run
                reason = "no API key on this machine"
            except (wandb.errors.Error, TimeoutError) as error:
                reason = f"the server did not accept the run ({' '.join(str(error).split())})"
            wandb.teardown()  # discards the settings of the failed attempt
            options["mode"] = "offline"
            later = f"later: wandb sync {shlex.quote(str(self._directory))}/wandb/offline-run-*"
            print(f"W&B: {reason}, so the run is logged offline; {later}", file=sys.stderr)
        if options["mode"] == "offline":
            del options["resume"]  # wandb ignores it offline, and 0.30 warns of that
        return wandb.init(**options)

    def _run_id(self) -> str:
        """Return the W&B id in the run's directory, after creating it for a new run."""
        path = self._directory / "wandb" / "run_id"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # wandb accepts no other id than the agent's in a sweep.
            chosen = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
            atomic_file.write(path, chosen or secrets.token_hex(4))
        return path.read_text()
