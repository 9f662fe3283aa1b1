"""The progress of a sweep on the terminal."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_subnets.experiments.sweep.plan import PlannedRun
from lightning_subnets.training.csv_text import Row


class SweepProgress(Progress):
    """A progress bar over the ``total`` runs of a sweep, and a line for each run that has ended."""

    def __init__(self, name: str, *, done: int, total: int) -> None:
        console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            # Rich's own estimate counts from the end of the first run, which is wrong for runs that began together.
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._before, self._done, self._total = done, done, total
        self._bar = self.add_task(name, total=total, completed=done, left="")

    def show(self, running: list[PlannedRun]) -> None:
        if running:
            self.update(self._bar, description=f"{len(running)} at once: {running[0].label}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text)

    def ended(self, run: PlannedRun, row: Row) -> None:
        """Say how a run ended, and how much time is left at the pace of the runs that have ended."""
        accuracy, status = row["test_accuracy"], row["status"]
        if status == "finished":
            what = "done" if accuracy is None else f"{accuracy:.2%}"
        else:
            what = f"failed: {row['error']}" if status == "failed" else "stopped; the same command resumes it"
        self._done += status != "missing"
        pace = (self.tasks[0].elapsed or 0) / max(1, self._done - self._before)
        left = f"{timedelta(seconds=round(pace * (self._total - self._done)))} left"
        self.update(self._bar, completed=self._done, left=left)
        self.say(f"{self._done}/{self._total}, {left}: {run.label}: {what}")
