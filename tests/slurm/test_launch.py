"""What slurm/fit.sbatch starts, and how it ends, with scripts in the place of lightning."""

from __future__ import annotations

import re

import pytest

from .site import Site

SAYS = """\
echo "rank $SLURM_PROCID, $SLURM_LOCALID on $SLURMD_NODENAME of $SLURM_NTASKS, GPUs ${CUDA_VISIBLE_DEVICES:-none},\
 threads $OMP_NUM_THREADS, $MASTER_ADDR: $*"
"""


def stand_in(site: Site, program: str) -> None:
    """Install a script as ``.venv/bin/lightning``."""
    path = site.directory / ".venv" / "bin" / "lightning"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/bash\n{program}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("options", "nodes", "processes", "gpus", "cpus"),
    [
        ("--gpus-per-node=2 --nodes=2 --cpus-per-gpu=2", 2, 2, "0,1", 2),
        ("--gpus-per-node=1 --cpus-per-gpu=3", 1, 1, "0", 3),
        ("--gpus-per-task=1 --ntasks-per-node=2 --cpus-per-task=2 --nodes=2", 2, 2, "0,1", 2),
        ("--gpus=2 --exclusive", 1, 2, "0,1", 2),
        ("--nodes=2 --ntasks-per-node=2 --cpus-per-task=2", 2, 2, "none", 2),
        ("--ntasks=4", 1, 4, "none", 1),
    ],
)
def test_there_is_a_process_for_each_gpu_or_task_and_each_sees_all_gpus_of_its_node(
    site: Site, options: str, nodes: int, processes: int, gpus: str, cpus: int
) -> None:
    stand_in(site, SAYS)
    job = site.submit("fit.sbatch", "-c", "a b.yaml", options=tuple(options.split()))
    assert job.wait_for_end() == "COMPLETED", job.log
    expected = [
        f"{rank}: rank {rank}, {rank % processes} on n{1 + rank // processes} of {nodes * processes}, GPUs {gpus},"
        f" threads {cpus}, 127.0.0.1: fit -c a b.yaml --version=job_{job.number} --trainer.num_nodes={nodes}"
        f" --trainer.devices={processes}"
        for rank in range(nodes * processes)
    ]
    assert sorted(line for line in job.log.splitlines() if ": rank " in line) == expected


def test_a_container_named_at_the_marked_place_starts_the_run(site: Site) -> None:
    stand_in(site, "echo outside")
    text = (site.directory / "slurm" / "fit.sbatch").read_text()
    (site.directory / "slurm").unlink()  # a link to the repository's
    (site.directory / "slurm").mkdir()
    named = re.sub("(?m)^# In a container: .*$", "lightning=(env IN=container bash own)", text)
    (site.directory / "slurm" / "fit.sbatch").write_text(named)
    (site.directory / "own").write_text('echo "in $IN: $*"\n')
    job = site.submit("fit.sbatch", options=())
    assert job.wait_for_end() == "COMPLETED", job.log
    assert "0: in container: fit --version" in job.log
    assert "outside" not in job.log


def test_too_few_cpus_for_the_gpus_are_an_error_that_says_what_to_add(site: Site) -> None:
    job = site.submit("fit.sbatch", options=("--gpus-per-node=2",))
    assert job.wait_for_end() == "FAILED"
    assert "error: 1 CPU on each node for 2 processes" in job.log
    assert "--cpus-per-gpu=12" in job.log


@pytest.mark.parametrize(
    ("program", "code", "why"),
    [
        ("exit 2", 2, "the lines above say why"),
        ("kill -KILL $$", 137, r"a process was killed \(SIGKILL\)"),
        ("kill -USR1 $$", 138, "SIGUSR1 came before training had begun"),
    ],
)
def test_a_failed_job_says_why_and_how_to_resume(site: Site, program: str, code: int, why: str) -> None:
    stand_in(site, program)
    job = site.submit("fit.sbatch", "-c", "a b.yaml", options=())
    assert job.wait_for_end() == "FAILED"
    assert job.exit_code == code
    again = rf"sbatch slurm/fit\.sbatch -c a\\ b\.yaml --version=job_{job.number}"
    assert re.search(rf"exit code {code}: {why}.*: {again}\n$", job.log), job.log


def test_a_task_of_an_array_requeues_only_itself(site: Site) -> None:
    stand_in(site, '[[ $SLURM_ARRAY_TASK_ID == 3 && -z ${SLURM_RESTART_COUNT:-} ]] && exit 75; echo "$@"')
    array = site.submit("fit.sbatch", options=("--array=1-3", "--output=%x-%A_%a.out"))
    tasks = array.tasks(1, 2, 3)
    tasks[2].wait_for_requeue()
    assert [task.wait_for_end() for task in tasks] == ["COMPLETED"] * 3
    assert [task.log.count("attempt") for task in tasks] == [1, 1, 2]
    assert all(f"fit --version=job_{task.number} " in task.log for task in tasks)


def test_the_processes_of_a_requeued_job_may_end_one_after_the_other(site: Site) -> None:
    stand_in(site, "[[ ${SLURM_RESTART_COUNT:-} ]] && exit; ((SLURM_PROCID)) || exit 75; sleep 1")
    job = site.submit("fit.sbatch", options=("--nodes=2",))
    job.wait_for_requeue()
    assert job.wait_for_end() == "COMPLETED"


def test_a_preempted_job_requeues_itself(site: Site) -> None:
    waiting = "trap 'exit 143' TERM; touch up; while :; do sleep 0.1; done"
    stand_in(site, f"[[ ${{SLURM_RESTART_COUNT:-}} ]] && exit; {waiting}")
    job = site.submit("fit.sbatch", options=("--exclusive",))
    job.wait_for_file("up")
    urgent = ("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true")
    site.cluster.command(*urgent, directory=site.directory)
    job.wait_for_requeue()
    assert job.wait_for_end() == "COMPLETED"
    assert "has saved its run to make room" in job.log
