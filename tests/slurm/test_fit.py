from __future__ import annotations

import os
import re
import shlex
import signal

from .cluster import Job
from .site import HELD, Site, assert_same, checkpoint_of, run_of, wait_until_held


def test_a_fit_on_two_nodes_is_one_run_of_two_ranks(uninterrupted: Job) -> None:
    job = uninterrupted
    assert job.state == "COMPLETED", job.log
    lines = [
        rf"job       {job.number}, attempt 1, \d{{4}}-\d\d-\d\dT.*",
        "nodes     2: n1 n2",
        "on each   1 processes of 1 CPUs, 0 GPUs",
        rf"code      {job.directory}, commit \S+",
        r"versions  python 3\.\S+ torch \S+ lightning \S+ lightning-subnets \S+",
        rf"command   \S*lightning fit -c configs/quickstart.yaml .* --version=job_{job.number}",
    ]
    assert re.match("\n".join(lines) + "\n", job.log), job.log
    assert job.log.endswith(f"job {job.number} is done\n")
    assert (run_of(job) / "summary.json").is_file()
    assert checkpoint_of(job)["global_step"] == 4 * 12, "1,437 images are 12 steps of 2 x 64"


def test_two_jobs_of_one_config_have_their_own_runs(uninterrupted: Job, requeued: Job) -> None:
    runs = Site(requeued.cluster, requeued.directory).runs
    assert runs == sorted(run_of(job) for job in (uninterrupted, requeued))


def test_a_job_requeued_at_its_time_limit_finds_the_same_as_an_uninterrupted_one(
    requeued: Job, uninterrupted: Job
) -> None:
    assert requeued.state == "COMPLETED", requeued.log
    assert re.findall("attempt [0-9]+", requeued.log) == ["attempt 1", "attempt 2"]
    assert_same(requeued, uninterrupted)


def test_a_requeued_job_is_one_run_on_the_dashboard(requeued: Job) -> None:
    parts = list((run_of(requeued) / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert len({part.name.rpartition("-")[2] for part in parts}) == 1


def test_a_killed_rank_ends_the_job_and_the_command_in_its_log_resumes_the_run(site: Site, uninterrupted: Job) -> None:
    job = site.fit(*HELD)
    wait_until_held(job)
    os.kill(job.rank(1), signal.SIGKILL)
    (site.directory / "go").touch()
    assert job.wait_for_end() == "FAILED"
    assert job.exit_code == 137, job.log
    assert "n2: task 1: Killed" in job.log
    assert "error: rank 0 has lost another process" in job.log
    job.wait_until_gone()

    said = re.search(r"exit code 137: a process was killed .* sbatch slurm/fit\.sbatch (.*)", job.log)
    assert said, job.log
    again = site.submit("fit.sbatch", *shlex.split(said[1]), options=("--nodes=2",))
    assert again.wait_for_end() == "COMPLETED", again.log
    assert site.runs == [run_of(job)]
    assert_same(job, uninterrupted)


def test_a_job_that_loses_a_node_resumes_when_the_node_is_back(site: Site, uninterrupted: Job) -> None:
    job = site.fit(*HELD, SLURM_WAIT="5")
    wait_until_held(job)
    with site.cluster.without("n2"):
        (site.directory / "go").touch()
        job.wait_for_line("has lost a node")
    # For a minute after a node responds again, SLURM repeats its order to kill what ran there, by the job's number.
    job.wait_for_requeue(seconds=70)
    assert job.wait_for_end() == "COMPLETED", job.log
    assert_same(job, uninterrupted)


def test_a_cancelled_job_saves_its_run_and_leaves_no_process(site: Site) -> None:
    job = site.fit(*HELD)
    wait_until_held(job)
    assert len(job.processes("SLURM_STEP_ID=0")) >= 2
    before = checkpoint_of(job)["global_step"]
    job.cancel()
    assert job.wait_for_end() == "CANCELLED"
    job.wait_for_line("exit code 143: it was told to stop")
    assert "queues itself again" not in job.log
    job.wait_until_gone()
    assert checkpoint_of(job)["global_step"] > before
