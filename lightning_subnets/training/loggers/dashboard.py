"""A run on Weights & Biases: one run however often the job is stopped, and never a reason to stop it."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.logger import _add_prefix
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import WandbLogger

from lightning_subnets._version import versions
from lightning_subnets.atomic_file import replacing
from lightning_subnets.training.loggers import metrics_file, wandb_file

if TYPE_CHECKING:
    from wandb import Run

# Seconds; wandb itself waits 90 for a server when a run begins, and without end when it is over.
_PATIENCE = {"init_timeout": 30.0, "finish_timeout": 30.0}


class Dashboard(WandbLogger):
    """Lightning's ``WandbLogger`` for a run that is stopped and goes on.

    The step on the dashboard is the optimizer step, as in ``metrics.csv``. All that is logged at a step is one row,
    sent when the next step is logged. A run that goes on has the id it began with, is first sent the rows of
    ``metrics.csv`` that its dashboard lacks, and is not sent again what is there: the step only grows.

    It is offline where there is no API key or the server does not take the run in 30 s; where W&B fails later the
    run goes on without it.

    Args:
        save_dir: the run's directory.
        step: the optimizer steps done when the run goes on; None for a new run.
        name: of the run; by default its directory's and the one's above it.
        project: by default that of the environment, else ``lightning-subnets``.
        kwargs: as for ``WandbLogger``.
    """

    def __init__(
        self, save_dir: str, step: int | None = None, name: str | None = None, project: str | None = None, **kwargs: Any
    ) -> None:
        run = Path(save_dir)
        super().__init__(
            save_dir=save_dir,
            name=name or f"{run.parent.name}/{run.name}",
            project=project or os.environ.get("WANDB_PROJECT", "lightning-subnets"),
            **kwargs,
        )
        self._directory, self._step = run, step
        self._row: dict[str, Any] = {}
        self._row_step = 0
        self._next_step = 0  # the first that the dashboard does not have
        self._failed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Run:
        if self._experiment is None:
            self._experiment = self._begin()
            for step, row in metrics_file.rows_before(self._directory, self._step or 0):
                self._add(row, step)
        return cast("Run", self._experiment)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        # A config's numbers may be of types of their own, which wandb would show as text.
        super().log_hyperparams(json.loads(json.dumps(params, default=str)))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        assert self.experiment is not None  # which catches up with the file first
        # What comes without a step is of the row that is being made.
        self._add(_add_prefix(metrics, self._prefix, self.LOGGER_JOIN_CHAR), self._row_step if step is None else step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._send()
        super().finalize(status)

    @rank_zero_only
    def finish(self, exit_code: int) -> None:
        """End the run on W&B as the process will end; one that asks to be requeued is marked as preempted."""
        self._send()
        run, self._experiment = self._experiment, None
        if run is None or self._failed:
            return
        import wandb

        try:
            if exit_code == os.EX_TEMPFAIL:
                run.mark_preempting()
            run.finish(exit_code)
            wandb.teardown()  # which returns when W&B's file is complete
        except Exception as error:
            self._fail(error)

    def _add(self, metrics: Mapping[str, Any], step: int) -> None:
        if step != self._row_step:
            self._send()
        self._row_step = step
        self._row.update(metrics)

    def _send(self) -> None:
        row, self._row = self._row, {}
        if not row or self._row_step < self._next_step or self._failed:
            return
        assert self._experiment is not None
        try:
            self._experiment.log(row, step=self._row_step, commit=True)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """W&B's own process has ended: without it wandb raises whatever its connection does."""
        import wandb

        self._failed = True
        print(f"W&B has failed ({error!r}): what it lacks is in {self._directory}/metrics.csv", file=sys.stderr)
        with suppress(Exception):
            wandb.teardown()  # or it would be tried when Python ends, with a traceback

    def _begin(self) -> Run:
        import wandb  # half a second that only its users should wait

        patience: dict[str, Any] = {k: v for k, v in _PATIENCE.items() if f"WANDB_{k.upper()}" not in os.environ}
        settings = wandb.Settings(silent=True, **patience)
        options: dict[str, Any] = {
            "group": os.environ.get("WANDB_RUN_GROUP", self._directory.parent.name),
            "config": {"versions": versions()},
            "settings": settings,
            "mode": "offline" if self._offline else wandb.setup(settings).settings.mode,
            # A config holds all that wandb.init takes, as None where it says nothing.
            **{key: value for key, value in self._wandb_init.items() if value is not None},
            "resume": "allow",
        }
        options.setdefault("id", self._run_id())
        if options["mode"] == "online":
            try:
                if wandb.login(prompt=False, verify=False):
                    run = wandb.init(**options)
                    self._next_step = run.starting_step
                    print(f"W&B: {run.url}", file=sys.stderr)
                    return run
                reason = "no API key on this machine"
            except (wandb.errors.Error, TimeoutError) as error:
                reason = f"the server did not take the run ({' '.join(str(error).split())})"
            wandb.teardown()  # or what it has read of the environment would stand
            options["mode"] = "offline"
            later = f"later: wandb sync {self._directory}/wandb/offline-run-*"
            print(f"W&B: {reason}, so the run is logged offline; {later}", file=sys.stderr)
        self._next_step = 1 + max((row["_step"] for row in self._written(options["id"])), default=-1)
        return wandb.init(**options)

    def _written(self, run_id: str) -> Iterator[dict[str, Any]]:
        for path in self._directory.glob(f"wandb/*run-*-{run_id}/*.wandb"):
            yield from wandb_file.history(path)

    def _run_id(self) -> str:
        """The run's id on W&B, made once and kept in its directory."""
        path = self._directory / "wandb" / "run_id"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(secrets.token_hex(4).encode())
        return path.read_text()
