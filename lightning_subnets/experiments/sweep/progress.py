"""The progress of a sweep on the terminal."""

from __future__ import annotations

import signal
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_subnets.experiments.sweep.plan import PlannedRun
from lightning_subnets.experiments.sweep.results import Row


class SweepProgress:
    """A progress bar over the ``total`` runs of a sweep, and a line for each run that has ended."""

    def __init__(self, name: str, *, done: int, total: int) -> None:
        console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self._began, self._done, self._before, self._total = time.monotonic(), done, done, total
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        # Rich's own estimate counts from the end of the first run, which is wrong for runs that began together.
        self._bar = Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=console)
        self._bar.disable = not console.is_terminal
        self._task = self._bar.add_task(name, total=total, completed=done, left="")

    def __enter__(self) -> SweepProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, running: list[PlannedRun]) -> None:
        if running:
            self._bar.update(self._task, description=f"{len(running)} at once: {running[0].label}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text)

    def signal(self, number: int, *, second: bool) -> None:
        waits = "waiting for the runs to save checkpoints; a second signal kills them"
        self.say(f"{signal.Signals(number).name}: {'the runs are killed' if second else waits}")

    def ended(self, run: PlannedRun, row: Row) -> None:
        """Say how a run ended, and how much time is left."""
        accuracy, status = row["test_accuracy"], row["status"]
        if status == "finished":
            what = "done" if accuracy is None else f"{accuracy:.2%}"
        else:
            what = f"failed: {row['error']}" if status == "failed" else "stopped; the same command resumes it"
        self._done += status != "missing"
        left = f"{timedelta(seconds=round(self.left(time.monotonic())))} left"
        self._bar.update(self._task, completed=self._done, left=left)
        self.say(f"{self._done}/{self._total}, {left}: {run.label}: {what}")

    def left(self, now: float) -> float:
        """Return the seconds that the remaining runs will take at the pace of the ones that have ended."""
        return (now - self._began) / max(1, self._done - self._before) * (self._total - self._done)
