"""``subnets sweep --slurm`` and ``--status`` with scripts in the place of SLURM; tests/slurm has a real cluster."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import stat
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from cluster_stand_in import OUT, Cluster, write_figure

from lightning_subnets.errors import UnwritableError, UserError
from lightning_subnets.experiments.sweep import ending, results
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.run_files.run_directory import in_use, lock

DENIED = PermissionError(errno.EACCES, "Permission denied")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cluster:
    write_figure(tmp_path, monkeypatch)
    return Cluster(monkeypatch, capsys)


def names() -> list[str]:
    return [run.name for run in Sweep.read(Path("figure.yaml"), "smoke").runs()]


def test_the_job_of_a_run_is_told_to_save_itself_and_requeues_alone(cluster: Cluster) -> None:
    before = os.umask(0o002)  # of people who share a directory
    said = cluster.sweep("--slurm", "--gpus=2", "--time=1-00:00:00", "--partition=big", "--max_jobs=1")
    assert os.umask(before) == 0o002
    assert said[0] == "2 runs: 2 not submitted"
    look = "subnets sweep figure.yaml --scale smoke --out out --status"
    assert said[1] == f"submitted 2 as job 77, which scancel 77 stops; to look: {look}"
    (submission,) = cluster.submissions()
    assert submission == {"name": submission["name"], "to": "slurm", "runs": names(), "by": "ada", "job": "77"}
    folder = Path("state/lightning-subnets", str(submission["name"]))
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (folder, *folder.parents[:2])]
    assert modes == [0o700] * 3, "Python unpickles what is in it"
    script = (folder / "77_submission.sh").read_text()
    options = {*re.findall("^#SBATCH --(.*)$", script, re.MULTILINE)}
    assert options >= {
        *("array=0-1%1", "cpus-per-task=24", "gpus-per-node=2", "nodes=1", "ntasks-per-node=1"),
        *("partition=big", "requeue", "signal=USR1@300", "time=1-00:00:00", f"job-name={submission['name']}"),
    }
    assert "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-12}\nunset SLURM_EXPORT_ENV\n" in script
    assert {path.name for path in folder.glob("*.pkl")} == {"77_0_submitted.pkl", "77_1_submitted.pkl"}


def test_the_status_says_what_slurm_and_the_files_of_the_runs_say(cluster: Cluster) -> None:
    cluster.sweep("--slurm")
    first, second = names()
    cluster.queue("PENDING", "RUNNING")
    assert cluster.sweep("--status") == [
        "2 runs: 1 running, 1 waiting",
        "running  U_k, density 0.9, seed 0  1:23; job 77_1 of ben",
        "waiting  U_k, density 0.5, seed 0  Resources|x; job 77_0 of ben",
    ]
    assert cluster.sweep("--slurm")[1].startswith("nothing to submit")

    cluster.queue("NODE_FAIL", "FAILED")
    results.failure_of(second, OUT).write_text("no \x1b memory\n")
    assert cluster.sweep("--status") == [
        "2 runs: 1 failed, 1 stopped",
        r"failed   U_k, density 0.9, seed 0  no \x1b memory",
        "stopped  U_k, density 0.5, seed 0  SLURM: NODE_FAIL (Resources|x), job 77_0 of ben",
    ]
    results.log_of(first, OUT).write_text("stopped by SIGTERM at step 3; to resume: lightning fit\n")
    cluster.queue("FAILED")
    words, slurm = "stopped by SIGTERM at step 3", "SLURM: FAILED (Resources|x), job 77_0 of ben"
    assert cluster.sweep("--status")[2] == f"stopped  U_k, density 0.5, seed 0  {words}; {slurm}"
    os.utime(results.log_of(first, OUT), (0, 0))
    assert cluster.sweep("--status")[2] == f"stopped  U_k, density 0.5, seed 0  {slurm}", "the words of an earlier job"
    os.utime(results.log_of(first, OUT))
    cluster.queue()
    assert cluster.sweep("--status")[2] == f"stopped  U_k, density 0.5, seed 0  {words}"
    assert cluster.sweep("--slurm")[1].startswith("submitted 2 ")
    cluster.queue("PENDING", "PENDING")
    assert cluster.sweep("--status")[0] == "2 runs: 2 waiting", "the failure is of an earlier job"


def test_a_run_that_finishes_while_slurm_is_asked_is_done(cluster: Cluster) -> None:
    cluster.sweep("--slurm")
    for name in names():
        results.directory_of(name, OUT).mkdir(parents=True)
    cluster.program("squeue", "for run in out/runs/*; do echo '{}' > $run/summary.json; done")
    assert cluster.sweep("--status")[0] == "2 runs: 2 done"


@pytest.mark.parametrize(
    ("code", "seconds", "reason"),
    [
        (2, 100, "the last words"),
        (2, 10, "exit code 2 before the run began; see the job's output in output"),
        (137, 100, "killed by SIGKILL, perhaps for memory"),
        (138, 100, "killed by SIGUSR1, which came before training had begun: is the time limit too short?"),
        (255, 100, "the last words"),
        (143, 100, None),
    ],
)
def test_the_end_of_a_job_is_written_down(tmp_path: Path, code: int, seconds: int, reason: str | None) -> None:
    (tmp_path / "runs").mkdir()
    log = tmp_path / "runs" / "a.log"
    log.write_text("first\nerror: the last words\ntip: none\n")
    os.utime(log, (time.time() - 50, time.time() - 50))
    ending.record(tmp_path, "a", code, time.time() - seconds, Path("output"))
    failure = tmp_path / "runs" / "a.failed"
    assert (failure.read_text().strip() if failure.exists() else None) == reason


def test_a_submission_that_was_killed_is_waited_for_and_then_forgotten(cluster: Cluster) -> None:
    cluster.sweep("--slurm")
    (path,) = OUT.glob("submissions/*.json")
    path.write_text(path.read_text().replace('"77"', "null"))
    assert cluster.sweep("--status")[1] == "waiting  U_k, density 0.5, seed 0  ada is submitting it"
    now = time.time()
    os.utime(path, (now - 100, now - 100))
    assert cluster.sweep("--status")[0] == "2 runs: 2 stopped"
    os.utime(path, (now - 100_000, now - 100_000))
    cluster.sweep("--slurm")
    assert not path.exists()
    assert len(cluster.submissions()) == len([*Path("state/lightning-subnets").iterdir()]) == 1


def test_ctrl_c_during_a_submission_waits_until_it_is_written_down(cluster: Cluster) -> None:
    cluster.program("sbatch", "kill -INT $PPID; echo Submitted batch job 78")
    done = threading.Event()
    threading.Thread(target=done.wait).start()  # the signal may reach any thread
    with pytest.raises(SystemExit) as ended:
        cluster.sweep("--slurm")
    done.set()
    assert ended.value.code == 128 + signal.SIGINT
    assert [each["job"] for each in cluster.submissions()] == ["78"]


def test_mistakes_are_named_before_anything_is_submitted(cluster: Cluster) -> None:
    for option in ("--partition=a", "--gpus=1", "--cpus=1", "--time=1", "--max_jobs=1"):
        assert f"{option.partition('=')[0]} is for jobs: give it together with --slurm" in cluster.mistake(option)
    for options in (("--slurm", "--at_once=1"), ("--slurm", "--status"), ("--status", "--at_once=1")):
        assert "--slurm, --status and --at_once exclude each other" in cluster.mistake(*options)
    assert "max_jobs = 0 is below 1" in cluster.mistake("--slurm", "--max_jobs=0")
    assert "cpus = 1 is below gpus = 2" in cluster.mistake("--slurm", "--cpus=1", "--gpus=2")
    assert not OUT.exists()
    cluster.program("sbatch", "echo 'sbatch: error: no such \x1b partition' >&2; exit 1")
    assert cluster.mistake("--slurm") == "error: sbatch refuses the runs: no such \\x1b partition\n"
    assert not cluster.submissions()
    assert not [*Path("state/lightning-subnets").iterdir()]
    Path("bin/srun").unlink()
    assert "sbatch is here, but srun is not: submit on a machine that has both" in cluster.mistake("--slurm")


@pytest.mark.parametrize("words", ["QOSMaxSubmitJobPerUserLimit", "Invalid job array specification"])
def test_a_cluster_that_takes_fewer_jobs_at_once_gets_fewer(cluster: Cluster, words: str) -> None:
    refuse = f"echo 'sbatch: error: {words}' >&2; exit 1"
    cluster.program("sbatch", f'case "$(cat "$1")" in *--array=*) {refuse};; esac; echo Submitted batch job 80')
    said = cluster.sweep("--slurm")
    assert said[1].startswith("submitted 1 as job 80, ")
    assert said[2] == "SLURM did not take all at once: later, the same command submits the other 1"
    assert [each["runs"] for each in cluster.submissions()] == [names()[:1]]
    assert len([*Path("state/lightning-subnets").iterdir()]) == 1
    cluster.queue("RUNNING")
    cluster.program("sbatch", refuse)
    assert words in cluster.mistake("--slurm")
    assert len(cluster.submissions()) == 1


def test_a_submission_from_a_job_inherits_nothing_of_the_job(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "4096")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    cluster.program("sbatch", "env > seen; echo Submitted batch job 79")
    seen = []
    for _ in range(2):
        shutil.rmtree(OUT, ignore_errors=True)
        cluster.sweep("--slurm")
        seen.append({line for line in Path("seen").read_text().splitlines() if line.startswith("SLURM_")})
        monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert seen == [{"SLURM_CONF=/etc/slurm.conf", "SLURM_MEM_PER_NODE=4096"}, {"SLURM_CONF=/etc/slurm.conf"}]


@pytest.mark.parametrize(
    ("place", "error", "reason"),
    [
        ("sweep.results.lock", DENIED, "no runs can be kept in out (Permission denied)"),
        ("sweep.results.atomic_file.write", DENIED, "no results can be kept in out/figure-smoke (Permission denied)"),
        ("report.report", UnwritableError("no room: none", "make some"), "no room: none"),
    ],
)
def test_the_status_is_for_those_too_who_cannot_write(
    place: str, error: Exception, reason: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.sweep("--slurm")
    cluster.queue("PENDING", "RUNNING")
    monkeypatch.setattr(f"lightning_subnets.experiments.{place}", Mock(side_effect=error))
    said = cluster.sweep("--status")
    assert said[0] == "2 runs: 1 running, 1 waiting"
    assert said[3] == f"nothing is drawn: {reason}"


def test_jobs_that_slurm_has_accepted_without_an_answer_are_not_submitted_again(cluster: Cluster) -> None:
    accept = (
        'for f in out/submissions/*.json; do f=${f##*/}; echo "${f%.json}|77|0|PENDING|0:00|ada|None" > queue; done'
    )
    cluster.program("sbatch", f"{accept}; echo 'sbatch: error: Socket timed out' >&2; exit 1")
    assert "sbatch refuses the runs: Socket timed out" in cluster.mistake("--slurm")
    assert len(cluster.submissions()) == 1
    assert cluster.sweep("--status")[1] == "waiting  U_k, density 0.5, seed 0  job 77_0 of ada"


def test_an_answer_that_is_no_number_of_a_job_is_a_mistake(cluster: Cluster) -> None:
    cluster.program("sbatch", "echo Welcome to the cluster")
    assert "sbatch refuses the runs: " in cluster.mistake("--slurm")
    assert cluster.submissions() == []


def test_a_sweep_waits_while_another_process_writes_the_table(cluster: Cluster) -> None:
    folder = OUT / "figure-smoke"
    folder.mkdir(parents=True)
    held = lock(folder)
    threading.Timer(0.3, os.close, [held]).start()
    with results.locked(folder, patience=10):
        assert in_use(folder)
        with pytest.raises(UserError, match="another subnets sweep writes to out/figure-smoke"):
            results.locked(folder, patience=0).__enter__()


@pytest.mark.parametrize(("gpus", "kept"), [("a100:2", {"SBATCH_GPUS_PER_NODE=a100:2"}), ("a100:1", set())])
def test_an_option_wins_over_a_variable_of_sbatch_and_the_other_variables_count(
    cluster: Cluster, gpus: str, kept: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_GPUS_PER_NODE", gpus)
    for name in ("ACCOUNT", "JOB_NAME", "PARTITION", "SIGNAL", "TIMELIMIT"):
        monkeypatch.setenv(f"SBATCH_{name}", "x")
    cluster.program("sbatch", "env > seen; echo Submitted batch job 79")
    cluster.sweep("--slurm", "--partition=big", "--gpus=2")
    seen = {line for line in Path("seen").read_text().splitlines() if line.startswith("SBATCH_")}
    assert seen == {"SBATCH_ACCOUNT=x", "SBATCH_TIMELIMIT=x"} | kept


def test_squeue_shows_all_jobs_whatever_a_shell_has_set_for_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.sweep("--slurm")
    monkeypatch.setenv("SQUEUE_USERS", "ada")
    cluster.queue("PENDING", "PENDING")
    cluster.program("squeue", '[ "$SQUEUE_USERS" ] || cat queue')
    assert cluster.sweep("--status")[0] == "2 runs: 2 waiting"


def test_the_last_words_of_a_run_are_known_although_squeue_answers_late(cluster: Cluster) -> None:
    cluster.sweep("--slurm")
    cluster.queue("FAILED", "PENDING")
    results.log_of(names()[0], OUT).write_text("error: no such GPU\n")
    cluster.program("squeue", "sleep 0.5; cat queue")
    assert "no such GPU; SLURM: FAILED" in cluster.sweep("--status")[1]


def test_without_an_answer_of_slurm_nothing_is_submitted(cluster: Cluster) -> None:
    cluster.sweep("--slurm")
    cluster.program("squeue", "echo squeue: error: no controller >&2; exit 1")
    for option in ("--status", "--slurm"):
        assert "squeue does not say what waits and runs (squeue: error: no controller)" in cluster.mistake(option)
    assert len(cluster.submissions()) == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 100_000,
        '{"name": "a-00000000"}',
        '{"name": "a-00000000", "to": "slurm", "runs": [], "by": "x", "job": "1; rm"}',
        '{"name": "a,b-00000000", "to": "slurm", "runs": [], "by": "x"}',
        '{"name": "other-00000000", "to": "slurm", "runs": [], "by": "x"}',
    ],
)
def test_a_damaged_file_of_a_submission_is_named(cluster: Cluster, content: str) -> None:
    (OUT / "submissions").mkdir(parents=True)
    (OUT / "submissions" / "a-00000000.json").write_text(content)
    assert "out/submissions/a-00000000.json is not a file of subnets sweep --slurm" in cluster.mistake("--status")


@pytest.mark.parametrize("name", [".", ".."])
def test_a_submission_cannot_name_a_directory_that_no_submission_has_made(cluster: Cluster, name: str) -> None:
    (OUT / "submissions").mkdir(parents=True)
    path = OUT / "submissions" / f"{name}.json"
    path.write_text(f'{{"name": "{name}", "to": "slurm", "runs": [], "by": "eve"}}')
    os.utime(path, (0, 0))
    other = Path("state/lightning-subnets/other")
    other.mkdir(parents=True)
    assert "is not a file of subnets sweep --slurm" in cluster.mistake("--slurm")
    assert other.is_dir()
