"""What the jobs of ``subnets sweep --slurm`` ask for if no option does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cluster_stand_in import Cluster, write_figure


@pytest.mark.parametrize(("options", "gpus", "cpus"), [([], ["1"], 12), (["--gpus=0"], [], 4)], ids=["GPU", "CPUs"])
def test_a_job_has_eight_hours_and_a_gpu_and_the_cpus_for_it(
    options: list[str],
    gpus: list[str],
    cpus: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_figure(tmp_path, monkeypatch)
    Cluster(monkeypatch, capsys).sweep("--slurm", *options)
    (path,) = Path("state/lightning-subnets").glob("*/77_submission.sh")
    script = path.read_text()
    assert re.findall("^#SBATCH --time=(.*)$", script, re.MULTILINE) == ["08:00:00"]
    assert re.findall("^#SBATCH --cpus-per-task=(.*)$", script, re.MULTILINE) == [str(cpus)]
    assert re.findall("^#SBATCH --gpus-per-node=(.*)$", script, re.MULTILINE) == gpus
