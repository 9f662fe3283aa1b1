"""``subnets sweep --slurm`` and ``--status`` with scripts in the place of SLURM; tests/slurm has a real cluster."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from small_figure import CONFIG, FIGURE

from lightning_subnets.commands.subnets import main
from lightning_subnets.errors import UserError
from lightning_subnets.experiments.sweep import ending, results
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.run_files.run_directory import in_use, lock

OUT = Path("out")


class Cluster:
    """A PATH with scripts in the place of SLURM's programs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        monkeypatch.setattr("lightning_subnets.experiments.report.report", lambda *_: None)  # which takes long
        Path("bin").mkdir()
        monkeypatch.setenv("PATH", str(Path("bin").absolute()))
        for tool in ("sh", "env", "kill", "cat"):
            Path("bin", tool).symlink_to(shutil.which(tool, path="/usr/bin:/bin") or "")
        monkeypatch.setenv("XDG_STATE_HOME", str(Path("state").absolute()))
        monkeypatch.setenv("USER", "ada")
        self.program("srun", "exit 1")
        self.program("sbatch", "echo Submitted batch job 77")
        self.program("squeue", "cat queue")
        self.queue()

    def program(self, name: str, script: str) -> None:
        Path("bin", name).write_text(f"#!{Path('bin/sh').absolute()}\n{script}\n")
        Path("bin", name).chmod(0o755)

    def queue(self, *states: str) -> None:
        """Set what squeue prints: a line for each run of the last submission, of the user ben."""
        files = sorted(OUT.glob("submissions/*.json"), key=lambda path: path.stat().st_mtime)
        name = files[-1].stem if files else ""
        lines = [f"{name}|77|{task}|{state}|1:23|ben|Resources|x" for task, state in enumerate(states)]
        Path("queue").write_text("".join(f"{line}\n" for line in lines))

    def sweep(self, *options: str) -> list[str]:
        """Return the lines that ``subnets sweep`` prints."""
        self._capsys.readouterr()
        main(["sweep", "figure.yaml", "--out=out", *options])
        return self._capsys.readouterr().out.splitlines()

    def mistake(self, *options: str) -> str:
        """Return the error that ``subnets sweep`` prints."""
        with pytest.raises(SystemExit) as ended:
            self.sweep(*options)
        assert ended.value.code == 2
        return self._capsys.readouterr().err

    def submissions(self) -> list[dict[str, object]]:
        return [json.loads(path.read_text()) for path in OUT.glob("submissions/*.json")]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cluster:
    write_figure(tmp_path, monkeypatch)
    return Cluster(monkeypatch, capsys)


def write_figure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("configs").mkdir()
    Path("configs/small.yaml").write_text(CONFIG)
    Path("figure.yaml").write_text(yaml.safe_dump(FIGURE))


def names() -> list[str]:
    return [run.name for run in Sweep.read(Path("figure.yaml"), "smoke").runs()]


def test_the_job_of_a_run_is_told_to_save_itself_and_requeues_alone(cluster: Cluster) -> None:
    before = os.umask(0o002)  # of people who share a directory
    said = cluster.sweep("--slurm", "--gpus=2", "--time=1-00:00:00", "--partition=big", "--max_jobs=1")
    assert os.umask(before) == 0o002
    assert said[0] == "2 runs: 2 not submitted"
    assert said[1].startswith("submitted 2 as job 77, which scancel 77 stops; to look: subnets sweep figure.yaml")
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
    assert "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-12}" in script
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
    ending.record(tmp_path, "a", code, seconds, Path("output"))
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


def test_the_status_is_for_those_too_who_cannot_write(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.sweep("--slurm")
    cluster.queue("PENDING", "RUNNING")

    def closed(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("lightning_subnets.experiments.sweep.results.lock", closed)
    said = cluster.sweep("--status")
    assert said[0] == "2 runs: 1 running, 1 waiting"
    assert said[3] == "nothing is drawn: no runs can be kept in out (Permission denied)"


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


def test_an_option_wins_over_a_variable_of_sbatch_and_the_other_variables_count(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCOUNT", "JOB_NAME", "PARTITION", "SIGNAL", "TIMELIMIT"):
        monkeypatch.setenv(f"SBATCH_{name}", "x")
    cluster.program("sbatch", "env > seen; echo Submitted batch job 79")
    cluster.sweep("--slurm", "--partition=big")
    seen = {line for line in Path("seen").read_text().splitlines() if line.startswith("SBATCH_")}
    assert seen == {"SBATCH_ACCOUNT=x", "SBATCH_TIMELIMIT=x"}


def test_squeue_shows_all_jobs_whatever_a_shell_has_set_for_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.sweep("--slurm")
    monkeypatch.setenv("SQUEUE_USERS", "ada")
    cluster.queue("PENDING", "PENDING")
    cluster.program("squeue", '[ "$SQUEUE_USERS" ] || cat queue')
    assert cluster.sweep("--status")[0] == "2 runs: 2 waiting"


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


@pytest.mark.thorough
def test_without_slurm_the_runs_are_made_in_the_background_without_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_figure(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    program = "from lightning_subnets.commands.subnets import main; main()"
    command = [sys.executable, "-c", program, "sweep", "figure.yaml", "--out=out", "--slurm"]
    options = ["--partition=big", "--max_jobs=1"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        said = process.communicate()[0]  # ends when no process has the pipe any more
    assert process.returncode == 0
    assert "no SLURM here (there is no sbatch), so this machine makes the runs in the background" in said
    assert "without --partition\n" in said
    with pytest.raises(ProcessLookupError):  # nothing is left to be ended with the terminal
        os.killpg(process.pid, signal.SIGHUP)
    main(command[3:])
    assert "nothing to submit" in capsys.readouterr().out
    wait_until(lambda: len([*OUT.glob("runs/*/summary.json")]) == 2)
    main([*command[3:-1], "--status"])
    assert capsys.readouterr().out.startswith("2 runs: 2 done\n")
    wait_until(lambda: not in_use(OUT / "figure-smoke"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
