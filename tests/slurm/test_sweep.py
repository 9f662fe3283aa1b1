from __future__ import annotations

import pytest

from .cluster import Job
from .site import Site

RUNS = """\
# The learning rate, and the seed of it that we like.
-c short.yaml --model.optimizer.lr=0.1
-c missing.yaml

-c short.yaml --model.optimizer.lr=0.1 --seed_everything=1
-c short.yaml --model.weights "signed_constant"
"""
VERSIONS = {
    "short_model.optimizer.lr=0.1",
    "missing",
    "short_model.optimizer.lr=0.1_seed_everything=1",
    "short_model.weights_signed_constant",
}
SHORT = "config: configs/quickstart.yaml\ntrainer.max_epochs: 1\ntrainer.accelerator: cpu\n"


def submitted(site: Site) -> list[Job]:
    """Return the four tasks of the array when they have ended."""
    array = site.submit("sweep.sbatch", "runs.txt", options=("--array=1-4%2",))
    tasks = array.tasks(*range(1, 5))
    for task in tasks:
        task.wait_for_end()
    return tasks


def finished(site: Site) -> dict[str, float]:
    """Return the time at which each finished run wrote its summary."""
    return {path.parent.name: path.stat().st_mtime for path in site.directory.glob("runs/runs/*/summary.json")}


def test_one_failed_run_of_four_is_run_again_by_the_same_list(site: Site) -> None:
    (site.directory / "runs.txt").write_text(RUNS)
    (site.directory / "short.yaml").write_text(SHORT)
    tasks = submitted(site)
    assert [task.state for task in tasks] == ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"]
    assert "missing.yaml" in tasks[1].log
    assert "ended with exit code 2" in tasks[1].log
    before = finished(site)
    assert before.keys() == VERSIONS - {"missing"}

    (site.directory / "missing.yaml").write_text(SHORT)
    # In another order, because a run must not be identified by its place in the list.
    (site.directory / "runs.txt").write_text("\n".join(reversed(RUNS.splitlines())))
    tasks = submitted(site)
    assert [task.state for task in tasks] == ["COMPLETED"] * 4
    assert ["is finished" in task.log for task in tasks] == [True, True, False, True]
    after = finished(site)
    assert after.keys() == VERSIONS
    assert before.items() < after.items(), "finished runs are unchanged"


@pytest.mark.parametrize(
    ("text", "tasks", "error"),
    [
        ("-c a.yaml\n\n# b\n-c c.yaml", [3], "there is no run 3 in runs.txt, which has 2"),
        ("-c a.yaml", [], "this is for a job array, and runs.txt has 1 runs: sbatch --array=1-1"),
        ("-c a.yaml --name='a b", [1], "run 1 of runs.txt has an unmatched quote"),
        ("-c a.yaml\n--config=a.yaml", [1], "runs 1 and 2 of runs.txt would both be a"),
    ],
)
def test_a_mistake_in_a_list_is_named(site: Site, text: str, tasks: list[int], error: str) -> None:
    (site.directory / "runs.txt").write_text(text)
    job = site.submit("sweep.sbatch", "runs.txt", options=tuple(f"--array={task}" for task in tasks))
    for task in job.tasks(*tasks) or [job]:
        assert task.wait_for_end() == "FAILED"
        assert task.exit_code == 2
        assert f"error: {error}" in task.log
