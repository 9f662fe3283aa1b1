"""How far a sweep is, and when it will be done."""

from __future__ import annotations

import signal
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_subnets.experiments.sweep.plan import PlannedRun
from lightning_subnets.experiments.sweep.results import Row


class SweepProgress:
    """A bar over the runs on a terminal, and a line for each that has ended.

    Args:
        name: of the sweep.
        done, total: runs.
    """

    def __init__(self, name: str, *, done: int, total: int) -> None:
        console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self._began, self._done, self._before, self._total = time.monotonic(), done, done, total
        self.signals = 0
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        # Rich would count from the end of the first run, where several at once have been under way as long.
        self._bar = Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=console)
        self._bar.disable = not console.is_terminal
        self._task = self._bar.add_task(name, total=total, completed=done, left="")

    def __enter__(self) -> SweepProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, under_way: list[PlannedRun]) -> None:
        """Say which runs are under way."""
        if under_way and not self.signals:
            self._bar.update(self._task, description=f"{len(under_way)} at once: {under_way[0].label}")

    def signal(self, number: int, *, second: bool) -> None:
        """Say that a signal to end has come."""
        self.signals += 1
        what = "the runs are killed" if second else "waiting for the runs to write their checkpoints; again kills them"
        self._say(f"{signal.Signals(number).name}: {what}")

    def elsewhere(self, run: PlannedRun) -> None:
        """Say that a run is left to another process."""
        self._say(f"{run.label}: another process is making it")

    def give_up(self, failed: int, left: int) -> None:
        """Say that no more runs are tried."""
        self._say(f"the first {failed} runs have failed for the same reason: the other {left} are not tried")

    def ended(self, run: PlannedRun, row: Row) -> None:
        """Say what came out of a run."""
        accuracy = row["test_accuracy"]
        if row["status"] == "failed":
            what = f"failed: {row['error']}"
        elif row["status"] == "missing":
            what = "stopped; the same command goes on"
        else:
            what = "done" if accuracy is None else f"{accuracy:.2%}"
        self._done += row["status"] != "missing"
        left = f"{timedelta(seconds=round(self.left(time.monotonic())))} left"
        self._bar.update(self._task, completed=self._done, left=left)
        self._say(f"{self._done}/{self._total}, {left}: {run.label}: {what}")

    def left(self, now: float) -> float:
        """Seconds that the other runs will take at the pace of those that have ended."""
        return (now - self._began) / max(1, self._done - self._before) * (self._total - self._done)

    def _say(self, text: str) -> None:
        self._bar.console.print(text)
