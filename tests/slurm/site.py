"""A directory to submit jobs from, a small fit on two nodes, and the comparison of two runs."""

from __future__ import annotations

import csv
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .cluster import Cluster, Job

ROOT = Path(__file__).parents[2]
# 4 epochs of 12 steps on two ranks. Without norms, because their running statistics depend on when they are averaged.
FIT = ["-c", "configs/quickstart.yaml", "--trainer.accelerator=cpu", "--trainer.max_epochs=4"]
FIT += ["--model.network.norm=none"]
HELD = ["--trainer.callbacks+=slurm.hold.Hold", "--trainer.callbacks.step=17"]  # in the middle of the second epoch
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    # No name server knows n1 and n2.
    "MASTER_ADDR": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "WANDB_MODE": "offline",
    "SLURM_WAIT": "300",  # for a rank that ends after another one; a busy machine takes longer than the default
}


@dataclass(frozen=True)
class Site:
    """A directory to submit from, with links to the templates and the configs."""

    cluster: Cluster
    directory: Path

    @classmethod
    def make(cls, cluster: Cluster, directory: Path) -> Site:
        for name in ("slurm", "configs"):
            (directory / name).symlink_to(ROOT / name)
        return cls(cluster, directory)

    def fit(self, *arguments: str, options: tuple[str, ...] = ("--nodes=2",), **environment: str) -> Job:
        return self.submit("fit.sbatch", *FIT, *arguments, options=options, **environment)

    def submit(self, script: str, *arguments: str, options: tuple[str, ...], **environment: str) -> Job:
        environment = {**ENVIRONMENT, **environment}
        return self.cluster.submit(script, *arguments, options=[*options], directory=self.directory, **environment)

    @property
    def runs(self) -> list[Path]:
        return sorted(self.directory.glob("runs/*/*"))


def run_of(job: Job) -> Path:
    """Return the directory of a fit's run."""
    return job.directory / "runs" / "quickstart" / f"job_{job.number}"


def checkpoint_of(job: Job) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(run_of(job) / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


def wait_until_held(job: Job) -> None:
    """Wait until both ranks wait in ``Hold``."""
    for rank in range(2):
        job.wait_for_file(f"held-{job.number}-{rank}")


def assert_same(job: Job, uninterrupted: Job) -> None:
    """Assert that two runs have the same scores, to the bit, and the same metrics except for times."""
    checkpoint, expected = checkpoint_of(job), checkpoint_of(uninterrupted)
    assert checkpoint["global_step"] == expected["global_step"]
    torch.testing.assert_close(checkpoint["state_dict"], expected["state_dict"], rtol=0, atol=0)
    assert _metrics_of(job) == _metrics_of(uninterrupted)


def _metrics_of(job: Job) -> list[dict[str, str]]:
    with (run_of(job) / "metrics.csv").open(newline="") as file:
        rows = [{name: v for name, v in row.items() if v and not _of_time(name)} for row in csv.DictReader(file)]
    return [row for row in rows if row.keys() - {"step", "epoch"}]


def _of_time(name: str) -> bool:
    return "second" in name or "wait" in name
